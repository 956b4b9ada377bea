//! The client against sushy-tools.

use fence::device::{Command as Ask, DeviceError, Power, Seen};
use fence::redfish::{Config, Proof, Redfish, Transport};
use fence::secret::Secret;

use super::bmc::{PASSWORD, PATIENCE, USER, UUID};
use super::emulator::Sushy;

#[tokio::test]
async fn peer_sushy_cuts_the_power_of_a_real_process() {
    let Some(sushy) = Sushy::start("power").await else { return };
    let redfish = Redfish::new(config(&sushy)).unwrap();
    let before = sushy.machine().expect("it runs");
    assert_eq!(redfish.run(Ask::Status, PATIENCE).await, Ok(Seen::Power(Power::On)));
    assert_eq!(redfish.run(Ask::Off, PATIENCE).await, Ok(Seen::Accepted));
    // The emulator takes between 1 and 11 seconds for it, and looks only when it is asked.
    reads(&redfish, Power::Off).await;
    assert_eq!(sushy.machine(), None, "off was read while process {before} lived");
    assert_eq!(redfish.run(Ask::Off, PATIENCE).await, Ok(Seen::Accepted), "it is off already");
    assert_eq!(redfish.run(Ask::On, PATIENCE).await, Ok(Seen::Accepted));
    reads(&redfish, Power::On).await;
    assert!(sushy.machine().is_some_and(|pid| pid != before));
}

#[tokio::test]
async fn peer_sushy_is_held_to_its_certificate_password_and_uuid() {
    let Some(sushy) = Sushy::start("refusals").await else { return };
    let status = async |change: &dyn Fn(&mut Config)| {
        let mut config = config(&sushy);
        change(&mut config);
        Redfish::new(config).unwrap().run(Ask::Status, PATIENCE).await
    };
    let on = Ok(Seen::Power(Power::On));
    let authority = sushy.certificate();
    let proof =
        |name: &str| Proof::Authority { file: authority.clone(), name: Some(name.to_owned()) };
    assert_eq!(status(&|c| c.transport = Transport::Https(proof("127.0.0.1"))).await, on);
    assert_eq!(status(&|c| c.system = Some(UUID.to_owned())).await, on);
    assert_eq!(status(&|c| c.expect_uuid = Some(UUID.to_uppercase())).await, on);

    let other_name = status(&|c| c.transport = Transport::Https(proof("bmc.example"))).await;
    assert!(matches!(other_name, Err(DeviceError::Login(_))), "{other_name:?}");
    let pin = Proof::Pinned(vec![[7; 32]]);
    let other_pin = status(&|c| c.transport = Transport::Https(pin.clone())).await;
    assert!(matches!(other_pin, Err(DeviceError::Login(_))), "{other_pin:?}");
    let password = status(&|c| c.password = Secret::new(b"hunter2".to_vec())).await;
    assert!(matches!(password, Err(DeviceError::Login(_))), "{password:?}");
    let uuid = "00000000-0000-0000-0000-000000000001";
    let stranger = status(&|c| c.expect_uuid = Some(uuid.to_owned())).await;
    assert!(matches!(stranger, Err(DeviceError::Stranger(_))), "{stranger:?}");
    assert!(sushy.machine().is_some());
}

/// Asks until this is read.
async fn reads(redfish: &Redfish, wanted: Power) {
    let look = async {
        while redfish.run(Ask::Status, PATIENCE).await.unwrap() != Seen::Power(wanted) {
            tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        }
    };
    tokio::time::timeout(PATIENCE, look).await.unwrap_or_else(|_| panic!("never {wanted}"));
}

fn config(sushy: &Sushy) -> Config {
    Config {
        host: "127.0.0.1".to_owned(),
        port: sushy.port(),
        transport: Transport::Https(Proof::Pinned(vec![sushy.pin()])),
        user: USER.to_owned(),
        password: Secret::new(PASSWORD.into()),
        system: None,
        expect_uuid: None,
    }
}
