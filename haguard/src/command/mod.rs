//! The command, one file a verb.

pub mod certs;
pub mod certutil;
pub mod demo;
pub mod fence;
pub mod node;
pub mod qdevice;
pub mod qnetd;
pub mod simulate;
pub mod status;
