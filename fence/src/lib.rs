//! The ways to make sure that a node is off.
//!
//! One exists today, and it lives where it is used: a watchdog's bound. A node announces the
//! class and the bound of its watchdog in every beat ([`protocol::vote::Bound`]), and recovery
//! waits for that bound where the class is accepted as proof (rule S6, `node/src/core/service.rs`).
//! A gateway to power (IPMI, Redfish, fence agents) does not exist yet; until it does, a node whose
//! watchdog proves nothing needs an operator, and `haguard status` says so.
