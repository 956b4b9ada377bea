//! Debian's stock kernel, unpacked and not installed, and its modules in the order in which they
//! can be loaded.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::must;

/// Gets it; see there.
const SCRIPT: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/tests/vm/kernel.sh");
/// Where it is kept.
const DIRECTORY: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../target/vm-kernel");

/// An unpacked kernel.
#[derive(Debug)]
pub(crate) struct Kernel {
    /// What the emulator boots.
    pub(crate) image: PathBuf,
    /// What `uname -r` will say.
    pub(crate) release: String,
    modules: BTreeMap<String, PathBuf>,
}

impl Kernel {
    /// The one that was unpacked before.
    ///
    /// # Errors
    /// There is none.
    pub(crate) fn find() -> Result<Self, String> {
        let directory = Path::new(DIRECTORY);
        if !directory.join("complete").exists() {
            let name = directory.display();
            return Err(format!("no kernel in {name}: run haguard/tests/vm/kernel.sh {name}"));
        }
        let image = only(&directory.join("boot"));
        let release = only(&directory.join("lib/modules"));
        let mut modules = BTreeMap::new();
        collect(&release.join("kernel"), &mut modules);
        let release = release.file_name().unwrap().to_string_lossy().into_owned();
        Ok(Self { image, release, modules })
    }

    /// The same; it is fetched where it is not there.
    pub(crate) fn fetch() -> Self {
        must(Command::new("sh").arg(SCRIPT).arg(DIRECTORY));
        Self::find().unwrap()
    }

    /// These modules and all that they need, each behind what it needs.
    pub(crate) fn modules(&self, wanted: &[&str]) -> Vec<PathBuf> {
        let mut order = Vec::new();
        for name in wanted {
            self.add(name, &mut order);
        }
        order
    }

    fn add(&self, name: &str, order: &mut Vec<PathBuf>) {
        let name = name.replace('-', "_");
        let path = self.modules.get(&name);
        let path = path.unwrap_or_else(|| panic!("kernel {} has no module {name}", self.release));
        if order.contains(path) {
            return;
        }
        for needed in needs(&fs::read(path).unwrap()) {
            self.add(&needed, order);
        }
        order.push(path.clone());
    }
}

/// The entry `depends=` of a module's section `.modinfo`, as `modinfo` shows it.
fn needs(module: &[u8]) -> Vec<String> {
    let mut entries = module.split(|byte| *byte == 0);
    let depends = entries.find_map(|entry| entry.strip_prefix(b"depends="));
    let depends = String::from_utf8_lossy(depends.unwrap_or_default()).into_owned();
    depends.split(',').filter(|name| !name.is_empty()).map(str::to_owned).collect()
}

fn only(directory: &Path) -> PathBuf {
    let mut entries = fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path());
    let found = entries.next().unwrap();
    assert!(entries.next().is_none(), "{}: more than one kernel", directory.display());
    found
}

fn collect(directory: &Path, modules: &mut BTreeMap<String, PathBuf>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            collect(&path, modules);
        } else if path.extension().is_some_and(|extension| extension == "ko") {
            let name = path.file_stem().unwrap().to_string_lossy().replace('-', "_");
            modules.insert(name, path);
        }
    }
}
