//! E01 to E22 of the wire, against our daemon and Debian's.

use super::arbiter::Arbiter;
use super::places::Place;
use super::script::{Case, cases, plain_cases, play};
use super::stock::Stock;
use super::tls::Site;

/// Plays a case against both; they live only for it, so that no case sees another's cluster.
async fn compare(case: &Case, ours: &str, stock: &[&str]) -> Result<(), String> {
    let ours = Arbiter::start(ours).await;
    let answer = play(ours.address, &case.steps).await;
    assert!(!answer.is_empty(), "{}: nothing was heard", case.name);
    let Some(stock) = Stock::start(stock).await else { return Ok(()) };
    let expected = play(stock.address, &case.steps).await;
    match (answer == expected, case.difference) {
        (true, None) | (false, Some(_)) => Ok(()),
        (true, Some(reason)) => Err(format!("{}: equal, although {reason}", case.name)),
        (false, None) => Err(format!(
            "{}:\n ours  {}\n stock {}",
            case.name,
            answer.join("\n       "),
            expected.join("\n       ")
        )),
    }
}

#[tokio::test]
async fn every_violation_is_answered_as_by_the_stock_daemon_unless_it_says_why_not() {
    let mut failures = Vec::new();
    for case in cases() {
        failures.extend(compare(&case, "-s off", &["-s", "off"]).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}

#[tokio::test]
async fn plain_text_is_refused_as_by_the_stock_daemon_where_tls_is_required() {
    let (place, site) = (Place::new(), Site::new());
    let flags = site.install(place.path());
    let mut failures = Vec::new();
    for case in plain_cases() {
        failures.extend(compare(&case, &flags, &["-s", "req"]).await.err());
    }
    assert!(failures.is_empty(), "{}", failures.join("\n"));
}
