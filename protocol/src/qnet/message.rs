//! One protocol message: its type and every option that was given.

use super::frame::{self, Frame, USUAL_BODY_BYTES};
use super::lease::{self, ArbiterHello, Grant, Hello, Renewal, ViewNote};
use super::tlv::{DecodeError, DecodeFault, Input, Reader, Value, Writer};
use super::{ErrorCode, NodeListType};
use crate::ids::{ClusterName, Epoch, NodeId, RingId};
use crate::vote::{Heuristics, TieBreaker, Vote};

/// Message types (section 1.3 of the wire).
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
#[repr(u16)]
pub enum MessageType {
    /// C→S, right after the connect.
    Preinit = 0,
    /// S→C.
    PreinitReply = 1,
    /// C→S; the TLS handshake follows at once.
    StartTls = 2,
    /// C→S.
    Init = 3,
    /// S→C.
    InitReply = 4,
    /// S→C.
    ServerError = 5,
    /// C→S.
    SetOption = 6,
    /// S→C.
    SetOptionReply = 7,
    /// C→S.
    EchoRequest = 8,
    /// S→C, a byte-for-byte copy of the request but for the type.
    EchoReply = 9,
    /// C→S.
    NodeList = 10,
    /// S→C.
    NodeListReply = 11,
    /// C→S, never sent by the stock client.
    AskForVote = 12,
    /// S→C.
    AskForVoteReply = 13,
    /// S→C, unasked.
    VoteInfo = 14,
    /// C→S.
    VoteInfoReply = 15,
    /// C→S.
    HeuristicsChange = 16,
    /// S→C.
    HeuristicsChangeReply = 17,
}

impl MessageType {
    /// Every type, in the order of their numbers, which start at 0 and have no gap.
    pub const ALL: [Self; 18] = [
        Self::Preinit,
        Self::PreinitReply,
        Self::StartTls,
        Self::Init,
        Self::InitReply,
        Self::ServerError,
        Self::SetOption,
        Self::SetOptionReply,
        Self::EchoRequest,
        Self::EchoReply,
        Self::NodeList,
        Self::NodeListReply,
        Self::AskForVote,
        Self::AskForVoteReply,
        Self::VoteInfo,
        Self::VoteInfoReply,
        Self::HeuristicsChange,
        Self::HeuristicsChangeReply,
    ];

    /// The type of a number, if it is one of wire 1.3.
    pub fn from_u16(number: u16) -> Option<Self> {
        Self::ALL.get(usize::from(number)).copied()
    }

    /// The front of the stock peers' order (wire 1.3), where it is not that of the numbers. What
    /// else a message holds follows by number, so private options come last.
    const fn leading_options(self) -> &'static [OptionType] {
        use OptionType as O;
        match self {
            Self::Preinit
            | Self::PreinitReply
            | Self::StartTls
            | Self::ServerError
            | Self::SetOption
            | Self::SetOptionReply
            | Self::EchoRequest
            | Self::EchoReply
            | Self::AskForVote
            | Self::VoteInfoReply
            | Self::HeuristicsChange => &[],
            Self::Init => &[
                O::Seq,
                O::SupportedMessages,
                O::SupportedOptions,
                O::NodeId,
                O::Algorithm,
                O::Heartbeat,
                O::TieBreaker,
                O::Ring,
            ],
            Self::InitReply => &[O::ErrorCode, O::SupportedMessages, O::SupportedOptions, O::Seq],
            Self::NodeList => {
                &[O::Seq, O::ListType, O::Ring, O::ConfigVersion, O::Quorate, O::NodeInfo]
            }
            Self::NodeListReply => &[O::Seq, O::ListType, O::Ring, O::Vote],
            Self::AskForVoteReply | Self::VoteInfo | Self::HeuristicsChangeReply => {
                &[O::Seq, O::Vote, O::Ring]
            }
        }
    }
}

/// The numbers of all message types, for option 4: the stock peers list all of them.
pub fn supported_messages() -> Vec<u16> {
    MessageType::ALL.iter().map(|kind| *kind as u16).collect()
}

/// The numbers of all options of the stock protocol, for option 5; our own peers add private ones.
pub fn stock_options() -> Vec<u16> {
    OptionType::ALL.iter().filter(|o| !o.is_private()).map(|o| *o as u16).collect()
}

/// TLS as the server offers it (option 2).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum TlsSupport {
    /// Plain text only.
    Unsupported = 0,
    /// The client may choose.
    Supported = 1,
    /// TLS only.
    Required = 2,
}

/// A node's state in a quorum list (option 16).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u8)]
pub enum NodeState {
    /// In the membership.
    Member = 1,
    /// Not in it.
    Dead = 2,
    /// Leaving it.
    Leaving = 3,
}

/// One node of a node list (option 17).
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct NodeInfo {
    /// The node.
    pub node: NodeId,
    /// Its data centre, 0 if none is set.
    pub data_center: u32,
    /// Its state, in quorum lists.
    pub state: Option<NodeState>,
}

/// Every option that a message held; of a repeated one the last, except node infos, which add up.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Options {
    /// 0.
    pub seq: Option<u32>,
    /// 1.
    pub cluster_name: Option<ClusterName>,
    /// 2.
    pub tls_supported: Option<TlsSupport>,
    /// 3, any value but 0 is yes.
    pub tls_client_cert_required: Option<u8>,
    /// 4.
    pub supported_messages: Option<Vec<u16>>,
    /// 5.
    pub supported_options: Option<Vec<u16>>,
    /// 6, raw: a newer peer may know more codes than [`ErrorCode`].
    pub error_code: Option<u16>,
    /// 7, bytes.
    pub max_request_bytes: Option<u32>,
    /// 8, bytes.
    pub max_reply_bytes: Option<u32>,
    /// 9, raw: 0 is accepted here (only inside a node info it is an error).
    pub node_id: Option<u32>,
    /// 10, raw numbers.
    pub supported_algorithms: Option<Vec<u16>>,
    /// 11, raw: an unknown one is answered, not refused.
    pub algorithm: Option<u16>,
    /// 12, milliseconds.
    pub heartbeat_ms: Option<u32>,
    /// 13.
    pub ring: Option<RingId>,
    /// 14.
    pub config_version: Option<u64>,
    /// 17, in order, duplicates kept.
    pub nodes: Vec<NodeInfo>,
    /// 18.
    pub list_type: Option<NodeListType>,
    /// 19.
    pub vote: Option<Vote>,
    /// 20.
    pub quorate: Option<bool>,
    /// 21.
    pub tie_breaker: Option<TieBreaker>,
    /// 22; `Undefined` is never on the wire and encodes as nothing.
    pub heuristics: Option<Heuristics>,
    /// 23.
    pub keep_active_partition: Option<bool>,
    /// 0x4841.
    pub hello: Option<Hello>,
    /// 0x4842.
    pub view_note: Option<ViewNote>,
    /// 0x4843.
    pub renewal: Option<Renewal>,
    /// 0x4844.
    pub grant: Option<Grant>,
    /// 0x4845.
    pub arbiter_hello: Option<ArbiterHello>,
    /// 0x4846.
    pub epoch: Option<Epoch>,
    /// 0x4847, milliseconds.
    pub worst_case_ms: Option<u32>,
}

impl Options {
    /// Takes in every option of a body; after a fault, those before it have been taken in.
    fn read(&mut self, body: &[u8]) -> Result<(), DecodeFault> {
        if body.is_empty() {
            return Err(DecodeFault::Empty);
        }
        for input in Reader::new(body) {
            let input = input?;
            if let Some(option) = OptionType::from_u16(input.option()) {
                self.read_option(option, input)?;
            }
        }
        Ok(())
    }

    fn read_option(&mut self, option: OptionType, input: Input<'_>) -> Result<(), DecodeFault> {
        use OptionType as O;
        match option {
            O::Seq => self.seq = Some(input.read()?),
            O::ClusterName => self.cluster_name = Some(input.read()?),
            O::TlsSupported => self.tls_supported = Some(input.read()?),
            O::TlsClientCertRequired => self.tls_client_cert_required = Some(input.read()?),
            O::SupportedMessages => self.supported_messages = Some(input.read()?),
            O::SupportedOptions => self.supported_options = Some(input.read()?),
            O::ErrorCode => self.error_code = Some(input.read()?),
            O::MaxRequest => self.max_request_bytes = Some(input.read()?),
            O::MaxReply => self.max_reply_bytes = Some(input.read()?),
            O::NodeId => self.node_id = Some(input.read()?),
            O::SupportedAlgorithms => self.supported_algorithms = Some(input.read()?),
            O::Algorithm => self.algorithm = Some(input.read()?),
            O::Heartbeat => self.heartbeat_ms = Some(input.read()?),
            O::Ring => self.ring = Some(input.read()?),
            O::ConfigVersion => self.config_version = Some(input.read()?),
            // These two say nothing outside a node info, but stock decoders check them.
            O::DataCenter => drop(input.read::<u32>()?),
            O::NodeState => drop(input.read::<NodeState>()?),
            O::NodeInfo => self.nodes.push(input.read()?),
            O::ListType => self.list_type = Some(input.read()?),
            O::Vote => self.vote = Some(input.read()?),
            O::Quorate => self.quorate = Some(input.read()?),
            O::TieBreaker => self.tie_breaker = Some(input.read()?),
            O::Heuristics => self.heuristics = Some(input.read()?),
            O::KeepActivePartition => self.keep_active_partition = Some(input.read()?),
            O::Hello => self.hello = Some(input.read()?),
            O::ViewNote => self.view_note = Some(input.read()?),
            O::Renewal => self.renewal = Some(input.read()?),
            O::Grant => self.grant = Some(input.read()?),
            O::ArbiterHello => self.arbiter_hello = Some(input.read()?),
            O::Epoch => self.epoch = Some(input.read()?),
            O::WorstCase => self.worst_case_ms = Some(input.read()?),
        }
        Ok(())
    }

    fn write_option(&self, option: OptionType, writer: &mut Writer) {
        use OptionType as O;
        let number = option as u16;
        match option {
            O::Seq => writer.put(number, self.seq.as_ref()),
            O::ClusterName => writer.put(number, self.cluster_name.as_ref()),
            O::TlsSupported => writer.put(number, self.tls_supported.as_ref()),
            O::TlsClientCertRequired => writer.put(number, self.tls_client_cert_required.as_ref()),
            O::SupportedMessages => writer.put(number, self.supported_messages.as_ref()),
            O::SupportedOptions => writer.put(number, self.supported_options.as_ref()),
            O::ErrorCode => writer.put(number, self.error_code.as_ref()),
            O::MaxRequest => writer.put(number, self.max_request_bytes.as_ref()),
            O::MaxReply => writer.put(number, self.max_reply_bytes.as_ref()),
            O::NodeId => writer.put(number, self.node_id.as_ref()),
            O::SupportedAlgorithms => writer.put(number, self.supported_algorithms.as_ref()),
            O::Algorithm => writer.put(number, self.algorithm.as_ref()),
            O::Heartbeat => writer.put(number, self.heartbeat_ms.as_ref()),
            O::Ring => writer.put(number, self.ring.as_ref()),
            O::ConfigVersion => writer.put(number, self.config_version.as_ref()),
            O::DataCenter | O::NodeState => {}
            O::NodeInfo => {
                for node in self.nodes.iter().filter(|info| info.node != NodeId(0)) {
                    writer.put(number, Some(node));
                }
            }
            O::ListType => writer.put(number, self.list_type.as_ref()),
            O::Vote => writer.put(number, self.vote.as_ref()),
            O::Quorate => writer.put(number, self.quorate.as_ref()),
            O::TieBreaker => writer.put(number, self.tie_breaker.as_ref()),
            O::Heuristics => {
                let known = self.heuristics.filter(|found| *found != Heuristics::Undefined);
                writer.put(number, known.as_ref());
            }
            O::KeepActivePartition => writer.put(number, self.keep_active_partition.as_ref()),
            O::Hello => writer.put(number, self.hello.as_ref()),
            O::ViewNote => writer.put(number, self.view_note.as_ref()),
            O::Renewal => writer.put(number, self.renewal.as_ref()),
            O::Grant => writer.put(number, self.grant.as_ref()),
            O::ArbiterHello => writer.put(number, self.arbiter_hello.as_ref()),
            O::Epoch => writer.put(number, self.epoch.as_ref()),
            O::WorstCase => writer.put(number, self.worst_case_ms.as_ref()),
        }
    }

    /// Appends the private options, which every stock peer skips.
    pub(super) fn write_private(&self, writer: &mut Writer) {
        for option in OptionType::ALL.into_iter().filter(|option| option.is_private()) {
            self.write_option(option, writer);
        }
    }
}

/// One message.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Message {
    /// What it is.
    pub kind: MessageType,
    /// What it says.
    pub options: Options,
}

impl Message {
    /// A message of a kind with nothing but a sequence number.
    pub fn new(kind: MessageType, seq: Option<u32>) -> Self {
        Self { kind, options: Options { seq, ..Options::default() } }
    }

    /// A server error, as the stock server sends it.
    pub fn server_error(seq: Option<u32>, code: ErrorCode) -> Self {
        let mut message = Self::new(MessageType::ServerError, seq);
        message.options.error_code = Some(code as u16);
        message
    }

    /// Reads a frame. Unknown options are skipped, of a repeated one the last counts, and known
    /// ones must have the length and the numbers of wire 1.4. Which options a message needs is not
    /// asked here.
    ///
    /// # Errors
    /// If the type is unknown or the options make no sense (wire 1.2).
    pub fn decode(frame: &Frame) -> Result<Self, DecodeError> {
        let Some(kind) = MessageType::from_u16(frame.kind) else {
            return Err(DecodeError { seq: None, what: DecodeFault::UnknownType(frame.kind) });
        };
        let mut options = Options::default();
        match options.read(&frame.body) {
            Ok(()) => Ok(Self { kind, options }),
            Err(what) => Err(DecodeError { seq: options.seq, what }),
        }
    }

    /// The message's bytes, header included, with the options in the order of the stock peers
    /// (wire 1.3). What the wire cannot say is left out: a name or list of more than 65535 bytes,
    /// a node info with node id 0. A message without any option cannot be decoded by anyone.
    pub fn encode(&self) -> Vec<u8> {
        let leading = self.kind.leading_options();
        let mut writer = Writer::after(frame::begin(self.kind as u16, USUAL_BODY_BYTES));
        for option in leading {
            self.options.write_option(*option, &mut writer);
        }
        for option in OptionType::ALL.iter().filter(|option| !leading.contains(option)) {
            self.options.write_option(*option, &mut writer);
        }
        frame::finish(writer.into_bytes())
    }
}

impl Value for NodeInfo {
    fn read(input: &mut Input<'_>) -> Result<Self, DecodeFault> {
        use OptionType as O;
        let (mut node, mut data_center, mut state) = (0, 0, None);
        for inner in Reader::new(input.take_rest()) {
            let inner = inner?;
            // Any other option is skipped here, even one that would be checked outside.
            if inner.option() == O::NodeId as u16 {
                node = inner.read()?;
            } else if inner.option() == O::DataCenter as u16 {
                data_center = inner.read()?;
            } else if inner.option() == O::NodeState as u16 {
                state = Some(inner.read()?);
            }
        }
        if node == 0 {
            return Err(DecodeFault::NoNodeId);
        }
        Ok(Self { node: NodeId(node), data_center, state })
    }

    fn write(&self, output: &mut Vec<u8>) {
        let data_center = Some(self.data_center).filter(|id| *id != 0);
        let mut inner = Writer::default();
        inner.put(OptionType::NodeId as u16, Some(&self.node.0));
        inner.put(OptionType::DataCenter as u16, data_center.as_ref());
        inner.put(OptionType::NodeState as u16, self.state.as_ref());
        output.extend(inner.into_bytes());
    }
}

/// So many are the stock protocol's.
const STOCK_OPTIONS: usize = 24;

/// The options that we know (wire 1.4), by number.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
#[repr(u16)]
enum OptionType {
    Seq = 0,
    ClusterName = 1,
    TlsSupported = 2,
    TlsClientCertRequired = 3,
    SupportedMessages = 4,
    SupportedOptions = 5,
    ErrorCode = 6,
    MaxRequest = 7,
    MaxReply = 8,
    NodeId = 9,
    SupportedAlgorithms = 10,
    Algorithm = 11,
    Heartbeat = 12,
    Ring = 13,
    ConfigVersion = 14,
    DataCenter = 15,
    NodeState = 16,
    NodeInfo = 17,
    ListType = 18,
    Vote = 19,
    Quorate = 20,
    TieBreaker = 21,
    Heuristics = 22,
    KeepActivePartition = 23,
    Hello = lease::OPTION_HELLO,
    ViewNote = lease::OPTION_VIEW_NOTE,
    Renewal = lease::OPTION_RENEWAL,
    Grant = lease::OPTION_GRANT,
    ArbiterHello = lease::OPTION_ARBITER_HELLO,
    Epoch = lease::OPTION_EPOCH,
    WorstCase = lease::OPTION_WORST_CASE,
}

impl OptionType {
    /// All of them, in the order of their numbers.
    const ALL: [Self; 31] = [
        Self::Seq,
        Self::ClusterName,
        Self::TlsSupported,
        Self::TlsClientCertRequired,
        Self::SupportedMessages,
        Self::SupportedOptions,
        Self::ErrorCode,
        Self::MaxRequest,
        Self::MaxReply,
        Self::NodeId,
        Self::SupportedAlgorithms,
        Self::Algorithm,
        Self::Heartbeat,
        Self::Ring,
        Self::ConfigVersion,
        Self::DataCenter,
        Self::NodeState,
        Self::NodeInfo,
        Self::ListType,
        Self::Vote,
        Self::Quorate,
        Self::TieBreaker,
        Self::Heuristics,
        Self::KeepActivePartition,
        Self::Hello,
        Self::ViewNote,
        Self::Renewal,
        Self::Grant,
        Self::ArbiterHello,
        Self::Epoch,
        Self::WorstCase,
    ];

    /// Both the stock options and the private ones, which follow them in [`Self::ALL`], are numbered
    /// without a gap.
    fn from_u16(number: u16) -> Option<Self> {
        let index = match number.checked_sub(lease::OPTION_HELLO) {
            Some(private) => usize::from(private) + STOCK_OPTIONS,
            None => Some(usize::from(number)).filter(|index| *index < STOCK_OPTIONS)?,
        };
        Self::ALL.get(index).copied()
    }

    const fn is_private(self) -> bool {
        self as u16 >= lease::OPTION_HELLO
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_option_and_no_other_has_its_number() {
        for number in 0..=u16::MAX {
            let known = OptionType::ALL.into_iter().find(|option| *option as u16 == number);
            assert_eq!(OptionType::from_u16(number), known, "option {number:#x}");
        }
    }
}
