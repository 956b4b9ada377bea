//! That our own BMC speaks IPMI, by programs that others wrote.

use super::bmc::{Bmc, Nature};
use super::common::{has, output};

fn ipmitool(bmc: &Bmc, suite: &str, words: &[&str]) -> String {
    let (host, port) = (bmc.host(), bmc.port().to_string());
    let mut args = vec!["-I", "lanplus", "-C", suite, "-H", &host, "-p", &port, "-U", "admin"];
    args.extend_from_slice(&["-P", "twenty bytes at most"]);
    args.extend_from_slice(words);
    output("ipmitool", &args)
}

fn ipmitool_switches_power(suite: &str) {
    if !has(&["ipmitool"]) {
        return;
    }
    let bmc = Bmc::start("127.0.0.1:0", Nature::default());
    for (word, on) in [("on", true), ("off", false)] {
        ipmitool(&bmc, suite, &["chassis", "power", word]);
        assert_eq!(bmc.record().power, on);
        let status = ipmitool(&bmc, suite, &["chassis", "power", "status"]);
        assert_eq!(status.trim(), format!("Chassis Power is {word}"));
    }
    let number: u8 = suite.parse().unwrap();
    let record = bmc.record();
    assert!(record.suites.iter().all(|suite| *suite == number), "{record:?}");
    assert_eq!((record.sessions, record.closed), (4, 4));
}

#[test]
fn peer_ipmitool_switches_our_bmc_with_suite_17() {
    ipmitool_switches_power("17");
}

#[test]
fn peer_ipmitool_switches_our_bmc_with_suite_3() {
    ipmitool_switches_power("3");
}

#[test]
fn peer_freeipmi_switches_our_bmc_with_suite_17() {
    if !has(&["ipmipower"]) {
        return;
    }
    // ipmipower knows no port but 623.
    let bmc = Bmc::start("127.77.2.1:623", Nature::default());
    for (word, on) in [("--on", true), ("--off", false)] {
        let host = bmc.host();
        let args = ["-D", "LAN_2_0", "-I", "17", "-h", &host, "-u", "admin"];
        let password = ["-p", "twenty bytes at most", word];
        output("ipmipower", &[&args[..], &password].concat());
        assert_eq!(bmc.record().power, on);
    }
}
