//! The admin API: JSON over HTTP on the Unix socket `agent.sock` of the agent's run directory.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/sessions` | the open sessions, [`LiveSession`] each |
//! | `GET /v1/explain?who=&service=&port=` | [`Explained`], by the policy in force |
//! | `POST /v1/drain?service=&undo=` | the endpoint of that service, or all of the host, take no new sessions, or with `undo=true` take them again; [`Standing`] each |
//! | `GET /v1/policy?version=` | [`Running`]: the signed policy in force, or a kept one |
//! | `PUT /v1/policy` | a bundle's bytes are taken for the policy; its [`BundleId`](ripstop_policy::BundleId), or 409 with why not |
//! | `GET /v1/policy/history` | the signed policies that are kept, newest first, [`Kept`] each |
//! | `GET /v1/policy/hosts` | which policy each other host of the graph runs, [`HostPolicy`] each; they are connected to for that |
//! | `GET /v1/attempts?seconds=` | what workloads of this host asked for and were denied, [`Attempt`] each |
//! | `PUT /v1/stage?file=` | a graph's text is tried beside the policy in force; 409 with its mistakes |
//! | `PUT /v1/stage/bundle` | a bundle that an operator signed to be tried, here and on all hosts; its [`StageId`](ripstop_policy::StageId), or 409 |
//! | `GET /v1/stage/hosts` | what that would change on the other hosts, [`HostStage`] each; they are connected to for that |
//! | `GET /v1/stage` | what that would change, [`Staged`], or `null` |
//! | `DELETE /v1/stage` | it is tried no more |
//! | `POST /v1/attach?workload=&pid=&netns=` | the workload is attached there, or with neither as the graph says; its id |
//! | `POST /v1/detach?workload=` | the workload has no interface until it is attached again; its id |
//! | `/v1/records`, `/v1/services`, `/v1/ping`, `/v1/dns` | session records as they come, services, questions that the agent asks; see the module of these requests |
//! | `/v1/capture` | packets of workloads; see the module of these requests |
//! | `GET /`, `POST /v1/page` | the page, and a link by which a browser sees it on loopback, [`PageLink`]; see [`crate::page`] |
//! | `/v1/pods` | pods, as the CNI plugin tells of them; see the module of these requests |
//! | `/v1/tokens`, `/v1/certificates` | on the host that holds the authority; see the module of these requests |
//! | `POST /v1/reload` | the graph is read again; 409 with the mistakes when it is refused |
//!
//! An answer that is not 200 is `{"error": "..."}`. Root and the agent's own user may ask for all of it, others for what
//! `admin:` of the settings gives them ([`Rights`]); the rest is answered 403, whatever the socket's mode says.

pub mod capture;
pub mod client;
mod enrol;
pub(crate) mod guard;
pub mod names;
pub mod operate;
pub mod pods;
pub mod policy;
pub mod rates;
mod rights;
pub mod server;
mod stage;
pub mod view;

pub use capture::{CaptureQuery, CapturedOn, Capturing, CapturingOn, TakeAll};
pub use client::{Client, ClientError};
pub use enrol::{NewToken, TokenStatus};
pub use operate::{Pong, Records, RecordsQuery, Resolved, ServiceView};
pub use policy::{CarrierStatus, HostPolicy, HostStage, Kept, Reach, Running};
pub use rights::Rights;
pub use ripstop_datapath::session::{
    endpoints::{Standing, State},
    observe::{Attempt, Staged},
};
pub use server::{AdminError, AdminSocket};
pub use view::{
    AgentView, BY_HAND, CaptureStatus, DataThread, EndpointState, EndpointStatus, Explained, IdentityStatus,
    LiveSession, PageLink, PolicyStatus, Predecessor, Resolver, ServiceStatus, Status, WorkloadState, WorkloadStatus,
};

/// The socket's name in the run directory.
pub const SOCKET: &str = "agent.sock";
