//! `ripstop exec`.

use crate::{
    lab::{Lab, ripstop},
    servers::nginx,
};

#[test]
fn a_command_runs_as_a_workload() {
    let lab = Lab::shop();
    let _nginx = nginx(&lab, &lab.workload("api"), "beta");
    let alpha = lab.host("alpha");
    // The host's own resolver knows nothing: the workload's must be used.
    alpha.sh("echo 'nameserver 192.0.2.254' > /etc/resolv.conf");
    let url = "http://api.shop.lab.test:8080/who";
    assert_eq!(alpha.ok(&[ripstop(), "exec", "web", "--", "curl", "-sS", "-m", "5", url]), "beta\n");
    assert_eq!(alpha.ok(&[ripstop(), "exec", "shop/web", "curl", "-sS", "-m", "5", url]), "beta\n");
    assert_eq!(alpha.sh("cat /etc/resolv.conf"), "nameserver 192.0.2.254\n", "the host's own stays");
    alpha.fails(&[ripstop(), "exec", "other", "--", "curl", "-sS", "-m", "5", url]);
}

#[test]
fn the_command_s_code_is_the_exit_code() {
    let lab = Lab::shop();
    let (code, _) = lab.host("alpha").fails(&[ripstop(), "exec", "web", "--", "sh", "-c", "exit 42"]);
    assert_eq!(code, 42);
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "exec", "nobody", "--", "true"]);
    assert_eq!(code, 1);
    assert!(said.contains("nobody") && said.contains("shop/web"), "it says which there are: {said}");
    let (code, _) = lab.host("alpha").fails(&[ripstop(), "exec", "web"]);
    assert_eq!(code, 2, "usage");
    lab.agent("alpha").kill();
    let (code, said) = lab.host("alpha").fails(&[ripstop(), "exec", "web", "--", "true"]);
    assert_eq!(code, 4, "{said}");
}
