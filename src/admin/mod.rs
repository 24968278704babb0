//! The admin API: JSON over HTTP on the Unix socket `agent.sock` of the agent's run directory.
//!
//! | request | answer |
//! |---|---|
//! | `GET /v1/status` | [`Status`] |
//! | `GET /v1/sessions` | the open sessions, [`LiveSession`] each |
//! | `GET /v1/explain?who=&service=&port=` | [`Explained`], by the policy in force |
//! | `POST /v1/drain?service=&undo=` | the endpoint of that service, or all of the host, take no new sessions, or with `undo=true` take them again; [`Standing`] each |
//! | `POST /v1/reload` | the graph is read again; 409 with the mistakes when it is refused |
//!
//! An answer that is not 200 is `{"error": "..."}`. The socket has mode 0600, and only root and the agent's own user
//! are answered, whatever the mode says.

pub mod client;
pub mod names;
pub mod server;
pub mod view;

pub use crate::session::endpoints::{Standing, State};
pub use client::{Client, ClientError};
pub use server::{AdminError, AdminSocket, serve};
pub use view::{
    AgentView, EndpointState, EndpointStatus, Explained, LiveSession, PolicyStatus, Resolver, ServiceStatus, Status,
    WorkloadState, WorkloadStatus,
};

/// The socket's name in the run directory.
pub const SOCKET: &str = "agent.sock";
