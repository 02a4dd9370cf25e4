//! The JSON lines between the command line and its helpers.
//!
//! To the helper: one [`Request`] a line. From it: one [`Line`] a line, the first a hello. A session answers requests as
//! they end, not in order; match them by `id`. An empty line is ignored, so whoever attaches to a running guard writes
//! one first: it ends what a predecessor may have left half-written, which is answered by an error without `id`.
//!
//! ```text
//! ← {"hello":{"version":"0.1.0","role":"session","kernel":"6.18.44","arch":"x86_64"}}
//! → {"id":1,"op":{"gateway":{"sandbox":"/var/run/docker/netns/0123456789ab"}}}
//! ← {"id":1,"ok":{"ipv4":"172.18.0.1","ipv6":null}}
//! → {"id":2,"op":{"listeners":{}}}
//! ← {"id":2,"error":{"what":"reading the sockets: Operation not permitted","hint":"…"}}
//! ```

mod inside;
mod open_files;
mod peers;
mod support;

use std::net::{IpAddr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use handover_core::net::Protocol;
use handover_core::redirect::peers::PeerTable;
use handover_core::redirect::ports::PortTable;
use serde::{Deserialize, Serialize};
use serde_json::Value;

pub use self::inside::{Door, FileRead, Process, Processes, Said};
pub use self::open_files::{FileInUse, Hold, MountInUse, MountsInUse};
pub use self::peers::{Caller, Callers, LeadCount, PeerCounted, PeerLoaded, PeerState, PeersCounted, PeersLoaded};
pub use self::support::{Check, Support};

/// How often whoever has the lock says that it is still there ([`SessionOp::Heartbeat`]).
pub const HEARTBEAT: Duration = Duration::from_secs(5);

/// After this time without a word from the other end, both ends of a connection with a heartbeat take it for gone.
pub const SILENCE: Duration = Duration::from_secs(20);

/// One request; `Op` is [`GuardOp`] or [`SessionOp`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request<Op> {
    /// Chosen by the sender, unique among its requests under way.
    pub id: u64,
    /// What to do.
    pub op: Op,
}

/// One line from a helper: exactly one of `hello`, `ok`, `error` and `progress` is there.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Line {
    /// The request this is about; none for a hello and for an error about a line that could not be read.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub id: Option<u64>,
    /// The first line.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hello: Option<Hello>,
    /// The request is done; its answer type is named at the operation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ok: Option<Value>,
    /// The request failed, or was cancelled.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub error: Option<Failure>,
    /// The request is under way; may be dropped.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub progress: Option<Value>,
}

/// Who is speaking.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// Version of handover that the helper is.
    pub version: String,
    /// `guard` or `session`.
    pub role: Role,
    /// The kernel's release.
    pub kernel: String,
    /// The machine's architecture, as Rust names it.
    pub arch: String,
}

/// Which helper.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Role {
    /// Holds the port rules.
    Guard,
    /// Looks, probes and drains.
    Session,
    /// Keeps leads for peers that go on calling an address that is gone.
    Keeper,
}

/// Why a request failed.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Failure {
    /// What happened, to what, in the kernel's words where it has some.
    pub what: String,
    /// What to do about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hint: Option<String>,
    /// The request was cancelled.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cancelled: bool,
}

/// What a guard can be asked. Every operation may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum GuardOp {
    /// Answers [`Hello`].
    Hello,
    /// Writes the table to the rules file, then loads it in one transaction, in place of an earlier one of the project.
    /// A table without leads keeps what was led translated and leads nothing new. Answers [`Loaded`].
    Load {
        /// What to lead where.
        table: PortTable,
    },
    /// Takes all leads out of the loaded table in one transaction and keeps it: nothing new is led, led connections go
    /// on. The rules file says so too. An error if none is loaded. Answers [`Loaded`].
    Release,
    /// Connections led since the table was loaded. Answers [`Counters`].
    Counters,
    /// Removes the rules file, deletes the table in one transaction, answers [`Unloaded`] and ends with success.
    Unload,
}

/// What a session can be asked. Every operation may be repeated.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum SessionOp {
    /// Answers [`Hello`].
    Hello,
    /// Whoever asks is still there, and asks again every [`HEARTBEAT`]: from now on the session ends, as it does with its input,
    /// when nothing at all has come for [`SILENCE`]. Answers `{}`.
    Heartbeat,
    /// What this kernel allows, found out by doing it; leaves nothing behind. Answers [`Support`].
    Support {
        /// A container's network namespace (`NetworkSettings.SandboxKey`) to try to enter.
        #[serde(default)]
        sandbox: Option<PathBuf>,
        /// Whether to try to lead ports. Each change of rules is waited for by the kernel: some 10 ms.
        #[serde(default)]
        ports: bool,
        /// Whether to try to lead addresses inside peers.
        #[serde(default)]
        peers: bool,
    },
    /// Listening TCP and bound UDP sockets of the host. Answers [`Listeners`].
    Listeners {
        /// Of a container instead.
        #[serde(default)]
        sandbox: Option<PathBuf>,
    },
    /// Default gateways inside a container. Answers [`Gateway`].
    Gateway {
        /// `NetworkSettings.SandboxKey` of the container.
        sandbox: PathBuf,
    },
    /// Ends when every address has accepted a TCP connection from the host, which is closed again at once. Waits without
    /// limit: cancel it. Progress [`Ready`], answers [`AllReady`].
    Accepts {
        /// What to wait for.
        targets: Vec<Target>,
    },
    /// Ends when sockets are bound (UDP) or listening (TCP) at all these ports inside the container. Waits without
    /// limit: cancel it. Progress [`Ready`] with the port as name, answers [`AllReady`].
    Listens {
        /// `NetworkSettings.SandboxKey` of the container.
        sandbox: PathBuf,
        /// The protocol.
        protocol: Protocol,
        /// Ports inside the container.
        ports: Vec<u16>,
    },
    /// Closes a container's connections, each at an instant when it is idle. Progress [`DrainProgress`], answers
    /// [`DrainReport`]. Not undone by cancelling: what is closed is closed.
    Drain(Drain),
    /// Lets a drain that was started with `hold` begin to close. Answers `{}`; the same if it has ended.
    Proceed {
        /// `id` of the drain.
        request: u64,
    },
    /// Lets a drain that closes only listen again, until it is told to proceed once more; what it has taken over comes to its end.
    /// Answers `{}`; the same if it has ended.
    Hold {
        /// `id` of the drain.
        request: u64,
    },
    /// Lets a drain leave all further connections alone: it ends once those that it has taken over have ended. Answers `{}`; the
    /// same if it has ended.
    Leave {
        /// `id` of the drain.
        request: u64,
    },
    /// Deletes the connection tracking entries of UDP flows, so that their next packet is led anew. Answers
    /// [`Forgotten`].
    ForgetUdp {
        /// An entry goes if one of these fits.
        flows: Vec<UdpFlows>,
    },
    /// Loads the table of each given network namespace, side by side, in place of the one that this session loaded there
    /// before; each is one transaction. A table that leads, holds and keeps nothing is removed. Answers [`PeersLoaded`];
    /// that a namespace failed is said there, and changes nothing in it. Not undone by cancelling.
    ///
    /// Connections under way stay as they are, led or not. But where nothing else asks for connection tracking (always
    /// for IPv6) those that are led are reset when their table goes: to lead nothing more, load [`PeerTable::released`]
    /// first, and remove the table, or end the session, once `open` of [`LeadCount`] is 0 for its leads. All tables go
    /// with the session, however it ends, and with the namespace.
    Peers {
        /// One a namespace; containers that share one must want the same.
        tables: Vec<PeerTable>,
    },
    /// What the peers' tables have led so far, and who has connections to the addresses that they lead. Answers
    /// [`PeersCounted`].
    PeerCounters {
        /// Namespaces, as in their tables; none means all that have a table of this session.
        sandboxes: Vec<PathBuf>,
    },
    /// Who has established TCP connections to a container. Those over loopback count too. Answers [`Callers`].
    Callers {
        /// `/proc/<pid>/ns/net`, of the container's main process; empty means the host's.
        sandbox: PathBuf,
        /// Ports inside the container; none means all that something listens at.
        ports: Vec<u16>,
    },
    /// Which files below mounts of a container are held for writing or locked, by whom. Only processes in the mount namespace of
    /// its main process are looked at. Needs SYS_PTRACE and DAC_READ_SEARCH. Answers [`MountsInUse`].
    OpenFiles {
        /// As for the others: `/proc/<pid>/ns/net`, of the container's main process.
        sandbox: PathBuf,
        /// Mount points in the container.
        targets: Vec<String>,
    },
    /// The connections led by a project's table, as its guard would count them. Answers [`Counters`].
    Ports {
        /// Name of the project.
        project: String,
    },
    /// Deletes a project's table although there is no guard any more. Answers [`Unloaded`].
    UnloadPorts {
        /// Name of the project.
        project: String,
    },
    /// Reads a file as a process of a container sees it. Answers [`FileRead`].
    ReadFile {
        /// The process, as the host counts.
        process: u32,
        /// Path for that process.
        path: PathBuf,
    },
    /// Writes a file that is there, in place: inode, owner and mode stay, also of one that is bound from the host. Answers `{}`.
    WriteFile {
        /// The process, as the host counts.
        process: u32,
        /// Path for that process.
        path: PathBuf,
        /// All of its new text.
        text: String,
    },
    /// A process and all below it. Answers [`Processes`].
    Processes {
        /// The process, as the host counts.
        process: u32,
    },
    /// Says something to a server inside a container, and hears it out until it closes the connection. Answers [`Said`].
    Converse {
        /// A process of the container, as the host counts.
        process: u32,
        /// Where the server listens.
        door: Door,
        /// What is said.
        text: String,
    },
    /// Ends a request; it answers with an error that says `cancelled`. Answers `{}`; the same if it has ended.
    Cancel {
        /// `id` of the request.
        request: u64,
    },
}

/// A drain.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Drain {
    /// `NetworkSettings.SandboxKey` of the container.
    pub sandbox: PathBuf,
    /// TCP ports inside the container.
    pub ports: Vec<u16>,
    /// When to give up, in milliseconds from the beginning, or from `proceed`.
    pub deadline_ms: u64,
    /// How long a connection must be quiet after an answer that was seen to be complete, in milliseconds.
    #[serde(default = "quiet_ms")]
    pub quiet_ms: u64,
    /// The same where the payload cannot be read (TLS, HTTP/2, other protocols).
    #[serde(default = "opaque_ms")]
    pub opaque_ms: u64,
    /// The same where no payload has been seen at all.
    #[serde(default = "unheard_ms")]
    pub unheard_ms: u64,
    /// Networks whose clients are on this host, as first address and length of the prefix: what was sent to them has reached
    /// them, acknowledged or not.
    #[serde(default)]
    pub near: Vec<(IpAddr, u8)>,
    /// Only the connections of these clients, as the container sees them; none means all.
    #[serde(default)]
    pub clients: Vec<SocketAddr>,
    /// Only listen, close nothing, until told to proceed: the longer the drain has listened, the more it knows.
    #[serde(default)]
    pub hold: bool,
    /// End only when told to leave, also where no connection is left: it may be told to proceed more than once.
    #[serde(default)]
    pub lasts: bool,
}

impl Drain {
    /// A drain with the usual times that begins at once.
    pub fn new(sandbox: PathBuf, ports: Vec<u16>, deadline_ms: u64) -> Self {
        Self {
            sandbox,
            ports,
            deadline_ms,
            quiet_ms: quiet_ms(),
            opaque_ms: opaque_ms(),
            unheard_ms: unheard_ms(),
            near: Vec::new(),
            clients: Vec::new(),
            hold: false,
            lasts: false,
        }
    }
}

fn quiet_ms() -> u64 {
    5
}

fn opaque_ms() -> u64 {
    2000
}

fn unheard_ms() -> u64 {
    1000
}

/// An address that should accept connections.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Target {
    /// How to call it in progress lines.
    pub name: String,
    /// Where.
    pub address: SocketAddr,
}

/// UDP flows; what is not given fits everything, but something must be given.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct UdpFlows {
    /// The port that the client sends to (the published port).
    #[serde(default)]
    pub published: Option<u16>,
    /// The address that answers (a container's).
    #[serde(default)]
    pub answers_from: Option<IpAddr>,
    /// The port that answers (a container's, or an ephemeral port of the host).
    #[serde(default)]
    pub answers_from_port: Option<u16>,
}

/// A table is loaded.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Loaded {
    /// Name of the nftables table.
    pub table: String,
    /// How many ports it leads.
    pub leads: usize,
    /// Time for the transaction, in microseconds.
    pub took_us: u64,
}

/// A table is gone.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Unloaded {
    /// Whether there was one.
    pub was_loaded: bool,
}

/// How often each lead was used.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Counters {
    /// Whether the project's table is in the kernel.
    pub loaded: bool,
    /// Connections (UDP: flows) led since loading, in the order of the table's leads.
    pub connections: Vec<u64>,
}

/// One socket that takes new connections or packets.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listener {
    /// Protocol.
    pub protocol: Protocol,
    /// Address; `::` takes IPv4 too unless `only_ipv6` says otherwise.
    pub address: IpAddr,
    /// Port.
    pub port: u16,
    /// An IPv6 socket that does not take IPv4; none where the kernel does not say.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub only_ipv6: Option<bool>,
    /// Owner of the socket.
    pub uid: u32,
    /// The socket's inode, as in `/proc/<pid>/fd`.
    pub inode: u32,
}

/// All sockets that take something.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listeners {
    /// Sorted by protocol, port, address.
    pub listeners: Vec<Listener>,
}

/// Default gateways.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Gateway {
    /// IPv4; none for a container without a way out.
    pub ipv4: Option<IpAddr>,
    /// IPv6.
    pub ipv6: Option<IpAddr>,
}

/// One of several is ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ready {
    /// Which.
    pub ready: String,
    /// Since the request, in milliseconds.
    pub after_ms: u64,
}

/// All are ready.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct AllReady {
    /// Since the request, in milliseconds.
    pub took_ms: u64,
}

/// Flows were forgotten.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Forgotten {
    /// How many.
    pub flows: usize,
}

/// Where a drain stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainProgress {
    /// Connections open now.
    pub open: usize,
    /// Closed by us when idle.
    pub closed_idle: usize,
    /// Ended without us.
    pub ended_by_themselves: usize,
    /// Not closing yet (`hold`).
    pub held: bool,
}

/// How a drain ended.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct DrainReport {
    /// Closed by us when idle.
    pub closed_idle: usize,
    /// Taken over when idle, so that their next request was passed on as the last one.
    #[serde(default)]
    pub handed_on: usize,
    /// Ended without us.
    pub ended_by_themselves: usize,
    /// Still there at the deadline.
    pub left: Vec<Remaining>,
    /// Between asking for packets for the last time and having closed a connection, in microseconds.
    pub look_to_close_us: Spread,
    /// Taking a connection over, in microseconds.
    #[serde(default)]
    pub takeover_us: Spread,
    /// Packets were missed and what was known was thrown away, so often.
    pub doubts: usize,
    /// From the beginning (or `proceed`), in milliseconds.
    pub took_ms: u64,
}

/// A connection that a drain leaves.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Remaining {
    /// The client's end, as the container sees it.
    pub peer: SocketAddr,
    /// Port inside the container.
    pub port: u16,
    /// What it looked like.
    pub activity: Activity,
}

/// What a connection looked like at the deadline.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Activity {
    /// It is being opened.
    Opening,
    /// One side has closed it, the rest is on its way.
    Closing,
    /// The server has not read everything.
    Unread,
    /// The client has not got everything.
    Unsent,
    /// The client spoke last.
    RequestUnderWay,
    /// The server has not finished its answer.
    AnswerUnderWay,
    /// An event stream, a download, a WebSocket.
    Stream,
    /// Idle, but not for long enough.
    NotQuietForLongEnough,
}

/// Median and maximum; zero if there was nothing to measure.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Spread {
    /// Median.
    pub median: u64,
    /// Maximum.
    pub max: u64,
}

#[cfg(test)]
mod tests {
    use handover_core::redirect::peers::AddressLead;

    use super::*;

    #[track_caller]
    fn check(text: &str, expected: SessionOp) {
        let request: Request<SessionOp> = serde_json::from_str(text).expect("readable");
        assert_eq!(request, Request { id: 7, op: expected });
        let again = serde_json::to_string(&request).expect("writable");
        assert_eq!(serde_json::from_str::<Request<SessionOp>>(&again).expect("readable"), request);
    }

    #[test]
    fn requests_read_as_documented() {
        check(r#"{"id":7,"op":{"listeners":{}}}"#, SessionOp::Listeners { sandbox: None });
        check(
            r#"{"id":7,"op":{"listens":{"sandbox":"/s","protocol":"udp","ports":[53]}}}"#,
            SessionOp::Listens { sandbox: "/s".into(), protocol: Protocol::Udp, ports: vec![53] },
        );
        check(
            r#"{"id":7,"op":{"drain":{"sandbox":"/s","ports":[80],"deadline_ms":5000}}}"#,
            SessionOp::Drain(Drain {
                sandbox: "/s".into(),
                ports: vec![80],
                deadline_ms: 5000,
                quiet_ms: 5,
                opaque_ms: 2000,
                unheard_ms: 1000,
                near: Vec::new(),
                clients: Vec::new(),
                hold: false,
                lasts: false,
            }),
        );
        check(
            r#"{"id":7,"op":{"forget_udp":{"flows":[{"published":443}]}}}"#,
            SessionOp::ForgetUdp { flows: vec![UdpFlows { published: Some(443), ..UdpFlows::default() }] },
        );
        let table = PeerTable {
            sandbox: "/proc/7/ns/net".into(),
            leads: vec![AddressLead { from: [172, 18, 0, 2].into(), to: [172, 18, 0, 3].into() }],
            ..PeerTable::default()
        };
        check(
            r#"{"id":7,"op":{"peers":{"tables":[
                {"sandbox":"/proc/7/ns/net","leads":[{"from":"172.18.0.2","to":"172.18.0.3"}]}]}}}"#,
            SessionOp::Peers { tables: vec![table] },
        );
    }

    #[test]
    fn numbers_survive_the_way_through_a_value() {
        let loaded = Loaded { table: "handover-shop".into(), leads: 3, took_us: 140 };
        let line = Line { id: Some(1), ok: serde_json::to_value(&loaded).ok(), ..Line::default() };
        let text = serde_json::to_string(&line).expect("writable");
        assert_eq!(text, r#"{"id":1,"ok":{"table":"handover-shop","leads":3,"took_us":140}}"#);
        let read: Line = serde_json::from_str(&text).expect("readable");
        let answer: Loaded = serde_json::from_value(read.ok.expect("an answer")).expect("readable");
        assert_eq!(answer, loaded);
    }
}
