//! What the demo prints.

use super::cast::{Host, WORKLOADS, dns_name};
use std::{
    io::{self, IsTerminal, Write},
    time::Duration,
};

/// Columns of the label in front of each line.
const LABEL: usize = 13;

/// One line, as it should be.
#[derive(Debug, Clone)]
pub(super) struct Line {
    pub(super) label: &'static str,
    /// Who did what, and what came of it.
    pub(super) what: String,
    /// Why: the rule, the endpoint, the line of YAML.
    pub(super) why: String,
}

/// Standard output, with colours where a person reads it.
#[derive(Debug)]
pub(super) struct Screen {
    colours: bool,
}

impl Screen {
    pub(super) fn new() -> Self {
        let unwanted = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
        Self { colours: io::stdout().is_terminal() && !unwanted }
    }

    pub(super) fn say(&self, text: &str) {
        self.print(&format!("{}\n", self.paint("2", text)));
    }

    pub(super) fn line(&self, line: &Line) {
        let label = self.paint("1;32", &format!("{:LABEL$}", line.label));
        self.print(&format!("{label} {}\n", line.what));
        if !line.why.is_empty() {
            self.print(&format!("{:LABEL$} {}\n", "", self.paint("2", &line.why)));
        }
    }

    pub(super) fn failed(&self, what: &str, error: &anyhow::Error) {
        let label = self.paint("1;31", &format!("{:LABEL$}", "FAILED"));
        self.print(&format!("{label} {what}: {error:#}\n"));
    }

    pub(super) fn summary(&self, failed: usize, took: Duration) {
        let verdict = match failed {
            0 => self.paint("1;32", "every line is as it should be"),
            failed => self.paint("1;31", &format!("{failed} lines are not as they should be")),
        };
        self.print(&format!("\n{verdict} ({:.1} s)\n", took.as_secs_f64()));
    }

    /// What to try while it stays up.
    pub(super) fn invite(&self) {
        let url = format!("http://{}:8080/", dns_name("api"));
        let alpha = Host::Alpha;
        let program = std::env::current_exe().map_or_else(|_| "ripstop".into(), |path| path.display().to_string());
        let socket = alpha.directory().join("agent.sock");
        let (socket, graph) = (socket.display(), alpha.settings().join("graph.yaml"));
        self.print(&format!(
            "\nThe fabric stays up. In another terminal, as root:\n\
             \n  {program} exec web -- curl -s {url}\
             \n  {program} exec web -- curl -sS --max-time 5 {url}orders\
             \n  {program} status --socket {socket}\
             \n  {program} explain batch db --socket {socket}\
             \n  ip netns exec {} curl -s http://127.0.0.1:7478/metrics\
             \n  $EDITOR {}      (each host has its copy, and both ends decide: change alpha's, beta's and gamma's)\
             \n\nWorkloads have the namespaces {}; session records and logs are in {}.\
             \nCtrl-C stops it and leaves nothing behind.\n",
            alpha.namespace(),
            graph.display(),
            WORKLOADS.join(", "),
            alpha.directory().parent().unwrap_or(&alpha.directory()).join("demo-*").display(),
        ));
    }

    fn paint(&self, colour: &str, text: &str) -> String {
        if self.colours { format!("\x1b[{colour}m{text}\x1b[0m") } else { text.to_owned() }
    }

    fn print(&self, text: &str) {
        // A reader that went away does not keep the demo from cleaning up.
        let mut out = io::stdout().lock();
        drop(out.write_all(text.as_bytes()).and_then(|()| out.flush()));
    }
}
