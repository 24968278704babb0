//! The arguments of `ripstop graph import`.

use clap::{Args, Subcommand, ValueEnum, ValueHint};
use ripstop_config::{FabricName, HostName};
use std::path::PathBuf;

#[derive(Debug, Subcommand)]
pub(in super::super) enum ImportCommand {
    /// From Compose files, of which each goes on top of those before
    ///
    /// Edges come from `depends_on` and `links`; what shares a network is suggested. Variables come from --env, --env-file or
    /// the file .env beside the first file, never from the environment.
    Compose(ImportCompose),
    /// From Kubernetes manifests: files, directories, or `-` for standard input
    ///
    /// Edges come from NetworkPolicies; what programs' environments name is suggested.
    Kubernetes(ImportKubernetes),
}

#[derive(Debug, Args)]
pub(in super::super) struct ImportCompose {
    /// The files
    #[arg(required = true, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in super::super) files: Vec<PathBuf>,
    /// The project's name, unless the files have one [default: the name of the first file's directory]
    #[arg(long, value_name = "NAME")]
    pub(in super::super) project: Option<String>,
    /// Take the services of this profile; `*` for all
    #[arg(long = "profile", value_name = "NAME")]
    pub(in super::super) profiles: Vec<String>,
    /// The value of a variable
    #[arg(long = "env", value_name = "NAME=VALUE")]
    pub(in super::super) variables: Vec<String>,
    /// A file of variables [default: .env beside the first file, if it is there]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in super::super) env_file: Option<PathBuf>,
    #[command(flatten)]
    pub(in super::super) into: Into,
}

#[derive(Debug, Args)]
pub(in super::super) struct ImportKubernetes {
    /// Files, directories with .yaml, .yml and .json files, or `-`
    #[arg(required = true, value_name = "PATH", value_hint = ValueHint::AnyPath)]
    pub(in super::super) paths: Vec<PathBuf>,
    #[command(flatten)]
    pub(in super::super) into: Into,
}

/// What is made of it.
#[derive(Debug, Args)]
pub(in super::super) struct Into {
    /// The fabric's name
    #[arg(long, value_name = "NAME", default_value = "fabric.example")]
    pub(in super::super) fabric: FabricName,
    /// A host that the workloads are on, in the order in which replicas fill them; give it again for each of several
    #[arg(long = "on", value_name = "HOST", default_value = "host-1")]
    pub(in super::super) hosts: Vec<HostName>,
    /// Write the graph there, where nothing may be yet [default: standard output]
    #[arg(long, value_name = "FILE", value_hint = ValueHint::FilePath)]
    pub(in super::super) out: Option<PathBuf>,
    /// How to write the report, to standard error
    #[arg(long, value_enum, default_value_t)]
    pub(in super::super) report: ReportFormat,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, ValueEnum)]
pub(in super::super) enum ReportFormat {
    /// A line for each part of the manifests
    #[default]
    Text,
    /// For programs
    Json,
}
