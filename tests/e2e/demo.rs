//! The demo, as the README runs it.

use crate::lab::ripstop;
use std::process::Command;

fn machine() -> String {
    let look = "ip link; ip rule; ip -6 rule; ip route show table all; ip -6 route show table all; nft list ruleset; \
                ls /run/netns /etc/netns /run/ripstop 2>&1; cat /etc/resolv.conf";
    let output = Command::new("sh").args(["-c", look]).output().unwrap();
    String::from_utf8_lossy(&output.stdout).into_owned()
}

#[test]
fn the_demo_does_what_it_says_and_leaves_nothing() {
    let before = machine();
    let output = Command::new("timeout").args(["60", ripstop(), "demo", "--once"]).output().unwrap();
    let said = String::from_utf8_lossy(&output.stdout).to_lowercase();
    let whole = format!("{said}{}", String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{}:\n{whole}", output.status);
    for part in ["alpha", "beta", "gamma", "api.shop.", "from:", "nxdomain", "mbit/s", "9000 bytes", "ping "] {
        assert!(said.contains(part), "no `{part}` in\n{whole}");
    }
    assert_eq!(machine(), before, "the demo leaves the machine as it was");
}
