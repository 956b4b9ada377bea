//! corosync's configuration in the words of the guard: as corosync has understood it, from cmap's
//! keys (cmap_keys(7)). Its file is never opened.

use std::collections::BTreeMap;
use std::time::Duration;

use protocol::ids::NodeId;
use protocol::times;

/// cmap's keys and their values as text.
pub type Keys = BTreeMap<String, String>;

/// What makes both sides of a split quorate without a device (safety 14).
const FORBIDDEN: [&str; 3] = ["two_node", "last_man_standing", "allow_downscale"];

/// What the guard has to know of a cluster.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Cluster {
    /// `totem.cluster_name`.
    pub name: String,
    /// This node.
    pub node: NodeId,
    /// Every configured node and its votes.
    pub votes: BTreeMap<NodeId, u32>,
    /// How long a lost token is waited for, as corosync has computed it.
    pub token: Duration,
    /// How long the others may take to agree after that.
    pub consensus: Duration,
    /// The longest that a membership change waits for a quorum device (S), if one is configured.
    pub sync_timeout: Option<Duration>,
    /// A setting that makes both sides of a split quorate.
    pub forbidden: Option<&'static str>,
}

impl Cluster {
    /// Reads the keys.
    ///
    /// # Errors
    /// One line with the key that is missing or wrong, and what to do.
    pub fn read(keys: &Keys) -> Result<Self, String> {
        let node = number(keys, "runtime.votequorum.this_node_id")?.filter(|node| *node != 0);
        let node = node.ok_or_else(|| {
            "corosync runs without votequorum: set quorum.provider to corosync_votequorum"
                .to_owned()
        })?;
        let millis = |key: &str| -> Result<Duration, String> {
            let found = number(keys, key)?;
            let found = found.ok_or_else(|| format!("corosync does not say {key}: is it 3.x?"))?;
            Ok(Duration::from_millis(found.into()))
        };
        let sync_timeout = match keys.get("quorum.device.model").map(String::as_str) {
            None | Some("") => None,
            Some(_) => {
                let configured = number(keys, "quorum.device.sync_timeout")?;
                let configured = configured.map(|ms| Duration::from_millis(ms.into()));
                Some(configured.unwrap_or(times::DEVICE_SYNC_TIMEOUT))
            }
        };
        let set = |name: &&str| keys.get(&format!("quorum.{name}")).is_some_and(|word| word == "1");
        Ok(Self {
            name: keys.get("totem.cluster_name").cloned().unwrap_or_default(),
            node: NodeId(node),
            votes: votes(keys)?,
            token: millis("runtime.config.totem.token")?,
            consensus: millis("runtime.config.totem.consensus")?,
            sync_timeout,
            forbidden: FORBIDDEN.into_iter().find(set),
        })
    }
}

/// The nodes that have an id of their own; one without has no vote here, which only makes the
/// guard end earlier.
fn votes(keys: &Keys) -> Result<BTreeMap<NodeId, u32>, String> {
    let places = keys.keys().filter_map(|key| {
        let place = key.strip_prefix("nodelist.node.")?.strip_suffix(".nodeid")?;
        place.parse::<u32>().ok()
    });
    let mut votes = BTreeMap::new();
    for place in places {
        let key = |name: &str| format!("nodelist.node.{place}.{name}");
        if let Some(id) = number(keys, &key("nodeid"))? {
            votes.insert(NodeId(id), number(keys, &key("quorum_votes"))?.unwrap_or(1));
        }
    }
    Ok(votes)
}

fn number(keys: &Keys, key: &str) -> Result<Option<u32>, String> {
    let Some(text) = keys.get(key) else { return Ok(None) };
    text.trim().parse().map(Some).map_err(|_| {
        format!(
            "{key} is {text:?}, not a whole number: correct corosync.conf and run corosync-cfgtool \
             -R"
        )
    })
}
