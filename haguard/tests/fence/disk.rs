//! A journal's disk that does not answer, and one that is full: a file system of its own in a file,
//! frozen as a hanging storage network freezes one.

use std::fs::{self, File};
use std::io::{BufRead as _, BufReader, Write as _};
use std::path::{Path, PathBuf};
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};

use protocol::fence::Outcome;
use protocol::ids::Epoch;

use super::common::{Scratch, is_root, left_out};
use super::gateway::{off, says};
use super::lab::Lab;
use super::{ONE, TWO};

/// Keeps the file system mounted as long as its input is open, and takes words there: so it is
/// thawed and gone however the test ends.
const KEEPER: &str = "mount -o loop \"$1\" \"$2\" || exit\necho ok\n\
    while read -r word; do fsfreeze \"$word\" \"$2\" && echo ok; done\n\
    fsfreeze -u \"$2\" 2>/dev/null; umount -l \"$2\"";

/// A disk of a few megabytes; it ends with the value.
struct Disk {
    path: PathBuf,
    words: Option<ChildStdin>,
    answers: BufReader<ChildStdout>,
    keeper: Child,
}

impl Disk {
    /// `None`, and says why, where there are no loop devices.
    fn mount(scratch: &Scratch) -> Option<Self> {
        let (image, path) = (scratch.root().join("image"), scratch.root().join("disk"));
        fs::create_dir(&path).unwrap();
        File::create(&image).unwrap().set_len(4 << 20).unwrap();
        let made = Command::new("mkfs.ext4").args(["-q", "-b", "1024"]).arg(&image).status();
        assert!(made.unwrap().success());
        let mut keeper = Command::new("sh")
            .args(["-c", KEEPER, "keeper"])
            .args([&image, &path])
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .unwrap();
        let answers = BufReader::new(keeper.stdout.take().unwrap());
        let words = keeper.stdin.take();
        let mut disk = Self { path, words, answers, keeper };
        if disk.is_done() {
            return Some(disk);
        }
        // No package helps where the kernel has no loop devices for us.
        left_out("no file system can be mounted here: see /dev/loop-control");
        None
    }

    fn is_done(&mut self) -> bool {
        let mut line = String::new();
        self.answers.read_line(&mut line).unwrap();
        line == "ok\n"
    }

    fn say(&mut self, word: &str) {
        writeln!(self.words.as_mut().unwrap(), "{word}").unwrap();
        assert!(self.is_done(), "{word}");
    }

    /// Until the value ends, what writes to it hangs, and cannot even be killed.
    fn freeze(&mut self) -> Frozen<'_> {
        self.say("-f");
        Frozen(self)
    }

    /// Leaves no room on it.
    fn fill(&self) {
        for size in [65_536, 1024] {
            let mut file = File::create(self.junk(size)).unwrap();
            while file.write_all(&vec![1; size]).and_then(|()| file.sync_data()).is_ok() {}
        }
    }

    fn clear(&self) {
        for size in [65_536, 1024] {
            fs::remove_file(self.junk(size)).unwrap();
        }
    }

    fn junk(&self, size: usize) -> PathBuf {
        self.path.join(format!("junk-{size}"))
    }
}

struct Frozen<'a>(&'a mut Disk);

impl Drop for Frozen<'_> {
    fn drop(&mut self) {
        self.0.say("-u");
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        drop(self.words.take());
        let _ = self.keeper.wait();
    }
}

#[tokio::test]
async fn without_a_disk_for_the_journal_nothing_is_cut_and_it_is_said() {
    if !is_root("a disk of its own") {
        return;
    }
    // Before everything that writes to it, so that it ends after that.
    let scratch = Scratch::new("fence-disk");
    let Some(mut disk) = Disk::mount(&scratch) else { return };
    let mut lab = Lab::start("fence-disk-lab").await;
    lab.gateway.state = disk.path.join("state");
    lab.gateway.write(&lab.gateway.outlets(&[1, 2]));
    lab.powered_by_outlets();
    lab.gateway.start().await;
    lab.split().await;

    // It does not answer: that is an alarm at once and a refusal in the end.
    let frozen = disk.freeze();
    let asked = async {
        let (lines, outcome) = lab.off().await;
        assert!(says(&outcome, "the disk of the journal does not answer"), "{lines}");
    };
    let alarm = "the journal's disk has not answered for";
    let alarmed = lab.gateway.until(alarm, |status| is_said(&status.alarms, alarm));
    tokio::join!(asked, alarmed);
    assert_eq!(lab.gateway.told(2), [""; 0], "no command without a record");
    drop(frozen);
    lab.gateway.until("its end", |status| !is_said(&status.alarms, alarm)).await;

    // It is full: that is said at once. What nobody is entitled to fills the last block.
    disk.fill();
    let full = "could not be written to the journal";
    for _ in 0..20 {
        let outcome = lab.gateway.off(ONE, Some(Epoch(0)), TWO).await;
        if says(&outcome, full) {
            break;
        }
        assert!(says(&outcome, "epoch"), "{outcome:?}");
    }
    let outcome = lab.gateway.off(ONE, lab.epoch(1), TWO).await;
    assert!(says(&outcome, full), "{outcome:?}");
    let status = lab.gateway.status().await;
    assert!(is_said(&status.alarms, "no node can be fenced: cannot write to"), "{status:?}");
    assert_eq!(lab.gateway.told(2), [""; 0]);

    // There is room again, and nothing of it is left.
    disk.clear();
    let (lines, outcome) = lab.gateway.fence(off(ONE, lab.epoch(1), TWO)).await;
    assert!(matches!(outcome, Outcome::Off { .. }), "{lines}");
    assert_eq!(lab.gateway.told(2), ["off"]);
    assert!(lab.gateway.status().await.alarms.is_empty());
    verify(&lab.gateway.state);
    lab.gateway.kill();
}

fn is_said(alarms: &[String], words: &str) -> bool {
    alarms.iter().any(|line| line.contains(words))
}

/// The chain is whole, as nothing was written twice or left half.
fn verify(state: &Path) {
    let state = state.display().to_string();
    let verified = super::common::haguard(&["fence", "verify-journal", "--state-dir", &state]);
    assert_eq!(verified.status.code(), Some(0), "{}", super::common::stdout(&verified));
}
