//! The corosync-qnetd wire protocol: framing, options, messages (corosync-qdevice 3.0.3), and
//! the private options by which our own peers negotiate leases.
//!
//! A message is a type, a length and options; [`Message`] holds the type and every known option.
//! Which options a message needs is a question of the session, not of the codec, because the
//! stock daemon answers a missing option instead of refusing the bytes.

use std::fmt;

mod frame;
mod lease;
mod message;
pub mod numbers;
mod tlv;

pub use frame::{Deframer, Frame, FrameError, HEADER_BYTES};
pub use lease::{
    ArbiterHello, Grant, Held, Hello, HostKind, OPTION_ARBITER_HELLO, OPTION_EPOCH, OPTION_GRANT,
    OPTION_HELLO, OPTION_RENEWAL, OPTION_VIEW_NOTE, OPTION_WORST_CASE, Renewal, ViewNote,
};
pub use message::{
    Message, MessageType, NodeInfo, NodeState, Options, TlsSupport, stock_options,
    supported_messages,
};
pub use tlv::{DecodeError, DecodeFault};

/// TCP port of the arbiter.
pub const PORT: u16 = 5403;
/// The CN of every arbiter's certificate (wire 7.3).
pub const SERVER_NAME: &str = "Qnetd Server";
/// Default limit of a whole message, header included, in bytes, in both directions.
pub const MESSAGE_LIMIT_BYTES: u32 = 32768;

/// Reply error codes (option 6).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u16)]
pub enum ErrorCode {
    /// No error.
    NoError = 0,
    /// A message that the client needs is not supported.
    UnsupportedNeededMessage = 1,
    /// An option that the client needs is not supported.
    UnsupportedNeededOption = 2,
    /// The server wants TLS.
    TlsRequired = 3,
    /// The message type is unknown.
    UnsupportedMessage = 4,
    /// The message is over the limit.
    MessageTooLong = 5,
    /// Preinit must come first.
    PreinitRequired = 6,
    /// The message lacks an option.
    RequiredOptionMissing = 7,
    /// Only a server may send this.
    UnexpectedMessage = 8,
    /// The message's bytes make no sense.
    ErrorDecodingMessage = 9,
    /// Something failed on the server.
    InternalError = 10,
    /// Init must come first.
    InitRequired = 11,
    /// The algorithm is unknown, or cannot work for this cluster.
    UnsupportedDecisionAlgorithm = 12,
    /// The heartbeat interval is out of range.
    InvalidHeartbeatInterval = 13,
    /// The algorithm does not know this message.
    UnsupportedDecisionAlgorithmMessage = 14,
    /// The tie-breaker differs from other nodes'.
    TieBreakerDiffers = 15,
    /// The algorithm differs from other nodes'.
    AlgorithmDiffers = 16,
    /// Another connection has this node id.
    DuplicateNodeId = 17,
    /// The configuration node list is impossible.
    InvalidConfigNodeList = 18,
    /// The membership node list is impossible.
    InvalidMembershipNodeList = 19,
}

impl ErrorCode {
    /// Every code, in the order of their numbers, which start at 0 and have no gap.
    pub const ALL: [Self; 20] = [
        Self::NoError,
        Self::UnsupportedNeededMessage,
        Self::UnsupportedNeededOption,
        Self::TlsRequired,
        Self::UnsupportedMessage,
        Self::MessageTooLong,
        Self::PreinitRequired,
        Self::RequiredOptionMissing,
        Self::UnexpectedMessage,
        Self::ErrorDecodingMessage,
        Self::InternalError,
        Self::InitRequired,
        Self::UnsupportedDecisionAlgorithm,
        Self::InvalidHeartbeatInterval,
        Self::UnsupportedDecisionAlgorithmMessage,
        Self::TieBreakerDiffers,
        Self::AlgorithmDiffers,
        Self::DuplicateNodeId,
        Self::InvalidConfigNodeList,
        Self::InvalidMembershipNodeList,
    ];

    /// The code of a number; `None` if only a newer peer knows it.
    pub fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }
}

impl fmt::Display for ErrorCode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::NoError => "no error",
            Self::UnsupportedNeededMessage => "a message that the client needs is not supported",
            Self::UnsupportedNeededOption => "an option that the client needs is not supported",
            Self::TlsRequired => "the server accepts only TLS",
            Self::UnsupportedMessage => "the message type is not supported",
            Self::MessageTooLong => "the message is too long",
            Self::PreinitRequired => "the greeting (preinit) must come first",
            Self::RequiredOptionMissing => "the message lacks an option",
            Self::UnexpectedMessage => "only a server may send this message",
            Self::ErrorDecodingMessage => "the message cannot be decoded",
            Self::InternalError => "internal error of the server",
            Self::InitRequired => "the introduction (init) must come first",
            Self::UnsupportedDecisionAlgorithm => "the decision algorithm is not supported here",
            Self::InvalidHeartbeatInterval => "the heartbeat interval is out of range",
            Self::UnsupportedDecisionAlgorithmMessage => {
                "the decision algorithm has no use for this message"
            }
            Self::TieBreakerDiffers => {
                "the tie-breaker differs from that of the cluster's other nodes"
            }
            Self::AlgorithmDiffers => {
                "the decision algorithm differs from that of the cluster's other nodes"
            }
            Self::DuplicateNodeId => "another connection has this node id",
            Self::InvalidConfigNodeList => "the configured node list is empty or lacks the sender",
            Self::InvalidMembershipNodeList => "the membership list is empty or lacks the sender",
        })
    }
}

/// What a node list is (option 18).
#[derive(Clone, Copy, Debug, Eq, Ord, PartialEq, PartialOrd)]
#[repr(u8)]
pub enum NodeListType {
    /// The configuration, at connect.
    InitialConfig = 0,
    /// The configuration, after a change.
    ChangedConfig = 1,
    /// The members of the client's view.
    Membership = 2,
    /// What the client's votequorum says.
    Quorum = 3,
}
