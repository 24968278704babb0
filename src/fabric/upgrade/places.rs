//! What an agent must have to itself before it is one: taken, or taken over from the one before.

use super::succession::{Adopted, Succession, Taken};
use crate::{
    admin::{AdminSocket, Rights, SOCKET},
    fabric::{by_hand::Hand, data},
};
use anyhow::Context as _;
use nix::unistd::geteuid;
use ripstop_config::{AgentConfig, WorkloadId};
use ripstop_datapath::handover::{ENTRANCE, Entrance};
use ripstop_kernel::{Doorway, Kernel};
use std::{collections::BTreeMap, os::fd::OwnedFd, sync::Arc};
use tokio::net::TcpListener;

/// The page's key in the settings, for errors.
const PAGE: &str = "page";

/// The agent's hold on the host.
pub(in crate::fabric) struct Places {
    pub(in crate::fabric) kernel: Kernel,
    pub(in crate::fabric) metrics: Option<TcpListener>,
    pub(in crate::fabric) page: Option<TcpListener>,
    pub(in crate::fabric) admin: AdminSocket,
    pub(in crate::fabric) entrance: Entrance,
    pub(in crate::fabric) inherited: Inherited,
}

/// What there is only where another agent was before.
#[derive(Default)]
pub(in crate::fabric) struct Inherited {
    pub(in crate::fabric) enrolment: Option<TcpListener>,
    pub(in crate::fabric) data: Option<data::Inherited>,
    pub(in crate::fabric) by_hand: BTreeMap<WorkloadId, Hand>,
    pub(in crate::fabric) adopted: Option<Adopted>,
}

impl Places {
    /// Takes them, from the agent before if there is one.
    pub(in crate::fabric) async fn of(
        config: &AgentConfig,
        doorway: Arc<Doorway>,
        succession: Option<Succession>,
    ) -> anyhow::Result<Self> {
        match succession {
            Some(succession) => Self::inherit(config, doorway, succession).await,
            None => Self::take(config, doorway).await,
        }
    }

    async fn take(config: &AgentConfig, doorway: Arc<Doorway>) -> anyhow::Result<Self> {
        // First, as another agent that already runs would hold everything else too.
        let kernel = Kernel::lock(&config.run, doorway)?;
        let metrics = match config.metrics {
            Some(address) => Some(ripstop_telemetry::http::bind(address).await?),
            None => None,
        };
        let page = match config.page {
            Some(address) => Some(ripstop_telemetry::http::bind_as(address, PAGE).await?),
            None => None,
        };
        let admin = AdminSocket::bind(&config.run.join(SOCKET), rights(config))?;
        let (_, moved) = admin.descriptor()?;
        let entrance = config.run.join(ENTRANCE);
        let entrance = Entrance::bind(&entrance, moved)
            .with_context(|| format!("failed to listen for the next agent on {}", entrance.display()))?;
        Ok(Self { kernel, metrics, page, admin, entrance, inherited: Inherited::default() })
    }

    /// From here on the agent before waits, and packets with it.
    async fn inherit(config: &AgentConfig, doorway: Arc<Doorway>, succession: Succession) -> anyhow::Result<Self> {
        let Taken { journal, generation, sockets, lanes, admin, entrance, metrics, enrolment, page, adopted } =
            succession.take().await?;
        let metrics = match (config.metrics, metrics) {
            (Some(address), Some(listener)) if sockets.metrics == Some(address) => Some(tcp(listener)?),
            (Some(address), _) => Some(ripstop_telemetry::http::bind(address).await?),
            (None, _) => None,
        };
        let page = match (config.page, page) {
            (Some(address), Some(listener)) if sockets.page == Some(address) => Some(tcp(listener)?),
            (Some(address), _) => Some(ripstop_telemetry::http::bind_as(address, PAGE).await?),
            (None, _) => None,
        };
        let endpoints = (sockets.drained_host, sockets.drained);
        let data = data::Inherited { lanes, generation, endpoints };
        let enrolment = enrolment.map(tcp).transpose()?;
        let admin = AdminSocket::inherit(admin, &config.run.join(SOCKET), rights(config))?;
        let (_, moved) = admin.descriptor()?;
        Ok(Self {
            kernel: Kernel::inherit(&config.run, doorway, journal)?,
            metrics,
            page,
            admin,
            entrance: Entrance::inherit(entrance, &config.run.join(ENTRANCE), moved)?,
            inherited: Inherited { enrolment, data: Some(data), by_hand: sockets.by_hand, adopted: Some(adopted) },
        })
    }
}

fn rights(config: &AgentConfig) -> Rights {
    Rights::new(config.admin.clone(), geteuid().as_raw())
}

fn tcp(listener: OwnedFd) -> std::io::Result<TcpListener> {
    TcpListener::from_std(listener.into())
}
