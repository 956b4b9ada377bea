//! What BMCs do that IPMI 2.0 does not say, and what is done about it.
//!
//! The sources are FreeIPMI's list (`freeipmi-bugs-issues-and-workarounds.txt`, ipmipower(8)
//! WORKAROUNDS), ipmitool's `-o` types (lanplus.c, lanplus_crypt.c), and what was seen of OpenIPMI's
//! ipmi_sim and of pyghmi. What costs no safety is always taken: a packet whose code fits is the
//! BMC's, whatever else is odd about it. What changes our own bytes, or loosens a check that has a
//! meaning, has a name that the configuration must give: `quirks = ["zero-session-id"]`.

/// When a quirk is taken into account.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Switch {
    /// Always.
    Always,
    /// If the configuration names it.
    Named,
    /// By another key of the configuration.
    Setting(&'static str),
    /// Never: it would leave the BMC without proof, or is beyond what is spoken here.
    Never,
}

/// One row of the table.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Quirk {
    /// Its name here.
    pub name: &'static str,
    /// What differs from IPMI 2.0, and what is done.
    pub differs: &'static str,
    /// Where it is written down.
    pub source: &'static str,
    /// Where it was seen.
    pub seen_on: &'static str,
    /// When it is taken into account.
    pub switch: Switch,
}

const fn quirk(
    name: &'static str,
    switch: Switch,
    differs: &'static str,
    source: &'static str,
    seen_on: &'static str,
) -> Quirk {
    Quirk { name, differs, source, seen_on, switch }
}

/// Every quirk that is known here.
pub const TABLE: &[Quirk] = &[
    quirk(
        "long-rakp2",
        Switch::Always,
        "RAKP 2 says one byte more than it has, or its code has more bytes than the algorithm \
         gives: compared as far as the algorithm gives",
        "freeipmi LAN Authentication #4 and #12 (supermicro20, sun20)",
        "Supermicro H8QME with SIMSO, Sun Fire 4100 with ILOM",
    ),
    quirk(
        "long-rakp4",
        Switch::Always,
        "RAKP 4 carries a whole digest, or one of the integrity algorithm: for suites 3 and 17 \
         both begin with the right bytes",
        "freeipmi LAN Authentication #9 (intel20), ipmitool -o intelplus",
        "Intel SE7520AF2",
    ),
    quirk(
        "open-session-privilege",
        Switch::Always,
        "\"highest privilege\" in Open Session is not understood, or that byte goes into the keys \
         in place of RAKP 1's: the same explicit privilege is sent in both",
        "freeipmi LAN Authentication #6 and #13 (opensesspriv), ipmi_sim",
        "Sun Fire X4150, Supermicro X8DTH, Intel S2600JF, Quanta QSSC-S4R, Dell C5220, ipmi_sim",
    ),
    quirk(
        "disabled-suite",
        Switch::Always,
        "a suite that is switched off is refused with 0Ah or 12h in place of 11h: the next suite \
         of the configuration is tried",
        "freeipmi LAN Authentication #19 and #20",
        "Supermicro X8DTG, MSI MS-91D2",
    ),
    quirk(
        "another-suite",
        Switch::Always,
        "Open Session is answered with other algorithms than were asked for: taken as a refusal, \
         and the next suite of the configuration is asked for by name",
        "pyghmi's server, ipmi/private/serversession.py",
        "pyghmi 1.6",
    ),
    quirk(
        "no-ipmi-15",
        Switch::Always,
        "neither IPMI 1.5 packets nor ASF pings are answered: none are sent",
        "freeipmi LAN Authentication #27, ipmiping",
        "Supermicro X11DPT-PS and later, Intel Windmill, Quanta Winterfell, pyghmi",
    ),
    quirk(
        "close-unanswered",
        Switch::Always,
        "Close Session is not answered after a reset: nothing waits for it",
        "freeipmi LAN Session #1",
        "Intel SR870BN4/Tiger 4",
    ),
    quirk(
        "skipped-sequence",
        Switch::Always,
        "the BMC's session sequence skips numbers, or does not begin at 1: the window begins with \
         the first signed packet",
        "freeipmi LAN Session #9, LAN Authentication #3",
        "ASRock MT-C224, Intel SE7520JR2",
    ),
    quirk(
        "short-device-id",
        Switch::Always,
        "Get Device ID without the four auxiliary bytes, which is legal",
        "IPMI 2.0 table 20-2",
        "many",
    ),
    quirk(
        "short-watchdog",
        Switch::Always,
        "Get Watchdog Timer without its present countdown: that is unknown then",
        "seen: ipmi_sim 2.0.33 answers 6 bytes of 8",
        "ipmi_sim",
    ),
    quirk(
        "garbage-after-code",
        Switch::Always,
        "bytes after the completion code of an answer that has none: ignored",
        "seen: Set Watchdog Timer of ipmi_sim 2.0.33 answers 35 bytes of its stack",
        "ipmi_sim",
    ),
    quirk(
        "off-when-off",
        Switch::Always,
        "power off of a machine that is off is refused with D5h: the state is read, and off is off",
        "IPMI 2.0 table 5-2 allows it",
        "many",
    ),
    quirk(
        "equal-privilege",
        Switch::Setting("privilege"),
        "a session opens only with exactly the privilege that the user has",
        "freeipmi LAN Authentication #24",
        "Xyratex HB-F8-SRAY",
    ),
    quirk(
        "zero-session-id",
        Switch::Named,
        "answers carry the session id 0: taken if their code fits",
        "freeipmi LAN Session #2 (idzero)",
        "Tyan S2882 with m3289 BMC",
    ),
    quirk(
        "bad-checksums",
        Switch::Named,
        "the checksums in answers are wrong: not looked at; the code covers the same bytes",
        "freeipmi LAN Session #7 (nochecksumcheck)",
        "Supermicro X9SCM-iiF, X9DRi-F, X9DRFR",
    ),
    quirk(
        "padded-user-name",
        Switch::Named,
        "the user's name counts sixteen bytes, zeros included, in RAKP 1 and in every code",
        "freeipmi LAN Authentication #7 (intel20)",
        "Intel SE7520AF2",
    ),
    quirk(
        "no-lookup-in-rakp3",
        Switch::Named,
        "the name-only bit is hashed everywhere but in RAKP 3",
        "freeipmi LAN Authentication #10 (intel20), ipmitool -o intelplus",
        "Intel SE7520AF2",
    ),
    quirk(
        "no-lookup",
        Switch::Named,
        "users cannot be looked up by name alone: the bit is never sent",
        "IPMI 2.0 section 13.20, the bit's reason",
        "BMCs with one name at several privileges",
    ),
    quirk(
        "lookup-not-hashed",
        Switch::Named,
        "the name-only bit is sent and never hashed, and RAKP 1 must have all 16 bytes of the name",
        "ipmitool -o i82571spt",
        "Intel 82571 GbE",
    ),
    quirk(
        "no-privilege-raise",
        Switch::Named,
        "Set Session Privilege Level is not understood: not sent",
        "ipmitool -o i82571spt",
        "Intel 82571 GbE",
    ),
    quirk(
        "short-integrity-pad",
        Switch::Named,
        "the integrity pad leaves out the two bytes behind it",
        "ipmitool -o icts",
        "BMCs of ICTS",
    ),
    quirk(
        "guid-not-kept",
        Switch::Named,
        "the GUID is another one after each start of the BMC: not compared, so another machine's \
         BMC at the address is noticed only by its password",
        "IPMI 2.0 section 20.8: a GUID may come from anything",
        "none known",
    ),
    quirk(
        "empty-codes",
        Switch::Never,
        "answers without, or with empty, authentication codes: anybody could have sent them",
        "freeipmi LAN Authentication #17, #24 and #26, LAN Session #3 to #6 (IPMI 1.5)",
        "Supermicro X8DTG with suites 7 and 8, Xyratex HB-F8-SRAY, Dell PowerEdge 2850",
    ),
    quirk(
        "weak-suites",
        Switch::Never,
        "suite 0 with a code, and the broken suites 7, 8, 11, 12: these suites are not spoken",
        "freeipmi LAN Authentication #8, #16, #17, #18 (integritycheckvalue)",
        "Supermicro X8DTG, Intel S2600JF",
    ),
    quirk(
        "only-highest-privilege",
        Switch::Never,
        "a session opens only if \"highest privilege\" is asked for",
        "freeipmi LAN Authentication #11",
        "an early Tyan board that was not written down",
    ),
];

/// The named quirks that the configuration has switched on.
#[derive(Clone, Copy, Debug, Default, Eq, PartialEq)]
pub struct Quirks {
    /// `zero-session-id`.
    pub zero_session_id: bool,
    /// `bad-checksums`.
    pub bad_checksums: bool,
    /// `padded-user-name`.
    pub padded_user_name: bool,
    /// `no-lookup-in-rakp3`.
    pub no_lookup_in_rakp3: bool,
    /// `no-lookup`.
    pub no_lookup: bool,
    /// `lookup-not-hashed`.
    pub lookup_not_hashed: bool,
    /// `no-privilege-raise`.
    pub no_privilege_raise: bool,
    /// `short-integrity-pad`.
    pub short_integrity_pad: bool,
    /// `guid-not-kept`.
    pub guid_not_kept: bool,
}

impl Quirks {
    /// The quirks of these names.
    ///
    /// # Errors
    /// Which name is none that can be switched on, and which are.
    pub fn named<'a>(names: impl IntoIterator<Item = &'a str>) -> Result<Self, String> {
        let mut quirks = Self::default();
        for name in names {
            let Some(flag) = quirks.flag(name) else { return Err(unknown(name)) };
            *flag = true;
        }
        Ok(quirks)
    }

    fn flag(&mut self, name: &str) -> Option<&mut bool> {
        Some(match name {
            "zero-session-id" => &mut self.zero_session_id,
            "bad-checksums" => &mut self.bad_checksums,
            "padded-user-name" => &mut self.padded_user_name,
            "no-lookup-in-rakp3" => &mut self.no_lookup_in_rakp3,
            "no-lookup" => &mut self.no_lookup,
            "lookup-not-hashed" => &mut self.lookup_not_hashed,
            "no-privilege-raise" => &mut self.no_privilege_raise,
            "short-integrity-pad" => &mut self.short_integrity_pad,
            "guid-not-kept" => &mut self.guid_not_kept,
            _ => return None,
        })
    }
}

fn unknown(name: &str) -> String {
    let name = name.escape_debug();
    let row = TABLE.iter().find(|row| *row.name == *name.to_string());
    match row.map(|row| row.switch) {
        Some(Switch::Always) => format!("the quirk {name} is always taken: leave it out"),
        Some(Switch::Setting(key)) => format!("for the quirk {name} set `{key}`"),
        Some(Switch::Never) => format!("the quirk {name} is never taken: it is not safe"),
        Some(Switch::Named) | None => {
            let named = TABLE.iter().filter(|row| row.switch == Switch::Named);
            let names: Vec<&str> = named.map(|row| row.name).collect();
            format!("there is no quirk {name}: the names are {}", names.join(", "))
        }
    }
}

#[cfg(test)]
mod tests {
    use std::fmt::Write;

    use super::*;

    #[test]
    fn every_named_quirk_can_be_switched_on_and_no_other() {
        for row in TABLE {
            assert_eq!(Quirks::named([row.name]).is_ok(), row.switch == Switch::Named, "{row:?}");
        }
        let mut names: Vec<&str> = TABLE.iter().map(|row| row.name).collect();
        names.sort_unstable();
        names.dedup();
        assert_eq!(names.len(), TABLE.len());
    }

    /// The table as an operator reads it.
    fn page() -> String {
        let mut page = String::from(
            "# Quirks of BMCs\n\nWhat BMCs do that IPMI 2.0 does not say, and what `haguard fence \
             gateway` does about it. What\ncosts no safety is always taken. What changes our own \
             bytes, or loosens a check that has a meaning, has\na name that the device's \
             configuration must give: `quirks = [\"zero-session-id\"]`\n([fencing.md](fencing.md)). \
             What would leave the BMC without proof is never taken.\n\nThe rows are those of \
             `fence/src/ipmi/quirks.rs`; each is tested in `fence/tests/ipmi/quirks.rs`, or says\nwhy \
             it is never taken.\n\n| quirk | taken | what differs, and what is done | seen on | \
             source |\n|---|---|---|---|---|\n",
        );
        for row in TABLE {
            let taken = match row.switch {
                Switch::Always => "always".to_owned(),
                Switch::Named => "if named".to_owned(),
                Switch::Setting(key) => format!("by `{key}`"),
                Switch::Never => "never".to_owned(),
            };
            let Quirk { name, differs, source, seen_on, .. } = row;
            writeln!(page, "| `{name}` | {taken} | {differs} | {seen_on} | {source} |").unwrap();
        }
        page
    }

    #[test]
    fn the_document_shows_this_table() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../docs/ipmi-quirks.md");
        if std::env::var_os("BLESS").is_some() {
            std::fs::write(path, page()).unwrap();
        }
        assert_eq!(std::fs::read_to_string(path).unwrap(), page(), "write it anew with BLESS=1");
    }

    #[test]
    fn a_wrong_name_is_answered_with_what_to_do() {
        let why = |name| Quirks::named([name]).unwrap_err();
        assert!(why("long-rakp2").ends_with("leave it out"));
        assert!(why("equal-privilege").ends_with("set `privilege`"));
        assert!(why("empty-codes").contains("not safe"));
        assert!(why("idzero").contains("zero-session-id, bad-checksums"));
    }
}
