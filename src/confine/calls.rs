//! System calls (seccomp(2)).
//!
//! What is refused is answered with EPERM, as if the right to it were missing. The agent, whose libraries do many things,
//! loses what none of them has a use for; the door, which does few, has only those.

use anyhow::bail;
use nix::libc;
use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule, TargetArch,
};
use std::collections::BTreeMap;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// What has no use in the agent: other processes, other programs, namespaces and mounts, the kernel and its clock, other
/// users, and interfaces to the kernel that have had more holes than uses here.
const NEVER: &[i64] = &[
    // Other processes: their memory, descriptors and states.
    libc::SYS_ptrace,
    libc::SYS_process_vm_readv,
    libc::SYS_process_vm_writev,
    libc::SYS_process_madvise,
    libc::SYS_kcmp,
    libc::SYS_pidfd_getfd,
    // Other programs.
    libc::SYS_execve,
    libc::SYS_execveat,
    // Namespaces and mounts.
    libc::SYS_setns,
    libc::SYS_unshare,
    libc::SYS_mount,
    libc::SYS_umount2,
    libc::SYS_pivot_root,
    libc::SYS_chroot,
    libc::SYS_move_mount,
    libc::SYS_open_tree,
    libc::SYS_fsopen,
    libc::SYS_fsconfig,
    libc::SYS_fsmount,
    libc::SYS_fspick,
    libc::SYS_mount_setattr,
    libc::SYS_name_to_handle_at,
    libc::SYS_open_by_handle_at,
    libc::SYS_mknodat,
    // The kernel, its programs and modules.
    libc::SYS_bpf,
    libc::SYS_perf_event_open,
    libc::SYS_init_module,
    libc::SYS_finit_module,
    libc::SYS_delete_module,
    libc::SYS_kexec_load,
    libc::SYS_kexec_file_load,
    libc::SYS_reboot,
    libc::SYS_swapon,
    libc::SYS_swapoff,
    libc::SYS_syslog,
    libc::SYS_acct,
    libc::SYS_quotactl,
    libc::SYS_quotactl_fd,
    libc::SYS_sethostname,
    libc::SYS_setdomainname,
    libc::SYS_vhangup,
    libc::SYS_fanotify_init,
    libc::SYS_lookup_dcookie,
    // The clock.
    libc::SYS_settimeofday,
    libc::SYS_clock_settime,
    libc::SYS_clock_adjtime,
    libc::SYS_adjtimex,
    // Keys of the kernel, faults served by a program, rings that no filter sees.
    libc::SYS_keyctl,
    libc::SYS_add_key,
    libc::SYS_request_key,
    libc::SYS_userfaultfd,
    libc::SYS_io_uring_setup,
    libc::SYS_io_uring_enter,
    libc::SYS_io_uring_register,
    // Other users and other rights.
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    libc::SYS_setgroups,
    libc::SYS_capset,
    libc::SYS_personality,
];

/// Those that only this architecture has.
#[cfg(target_arch = "x86_64")]
const NEVER_HERE: &[i64] = &[libc::SYS_iopl, libc::SYS_ioperm, libc::SYS_modify_ldt, libc::SYS_mknod, libc::SYS_uselib];
#[cfg(not(target_arch = "x86_64"))]
const NEVER_HERE: &[i64] = &[];

/// Added to a call's number in the x32 ABI, which a filter sees as x86-64 (`__X32_SYSCALL_BIT`, asm/unistd.h).
#[cfg(target_arch = "x86_64")]
const OTHER_ABI: Option<i64> = Some(0x4000_0000);
#[cfg(not(target_arch = "x86_64"))]
const OTHER_ABI: Option<i64> = None;

/// What a new thread or process may not have of its own.
const NAMESPACES: &[i32] = &[
    libc::CLONE_NEWNS,
    libc::CLONE_NEWCGROUP,
    libc::CLONE_NEWUTS,
    libc::CLONE_NEWIPC,
    libc::CLONE_NEWUSER,
    libc::CLONE_NEWPID,
    libc::CLONE_NEWNET,
];

/// What the agent speaks: with others, with the kernel, with `ripstop` and container engines. No raw frames, above all.
const AGENT_FAMILIES: &[i32] = &[libc::AF_INET, libc::AF_INET6, libc::AF_NETLINK, libc::AF_UNIX];
/// What the door opens: netlink sockets, and one by which a TUN device is set up.
const DOOR_FAMILIES: &[i32] = &[libc::AF_NETLINK, libc::AF_INET];

/// What the door does: hear and answer, find and open, enter, write two files; and what a thread and its memory take.
const DOOR: &[i64] = &[
    libc::SYS_recvmsg,
    libc::SYS_sendmsg,
    libc::SYS_setns,
    libc::SYS_openat,
    libc::SYS_close,
    libc::SYS_read,
    libc::SYS_write,
    libc::SYS_writev,
    libc::SYS_lseek,
    libc::SYS_ioctl,
    libc::SYS_fcntl,
    libc::SYS_statx,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_fstatfs,
    libc::SYS_getdents64,
    libc::SYS_readlinkat,
    libc::SYS_faccessat,
    libc::SYS_mkdirat,
    libc::SYS_unlinkat,
    libc::SYS_linkat,
    libc::SYS_renameat,
    libc::SYS_renameat2,
    libc::SYS_fchmod,
    libc::SYS_fsync,
    libc::SYS_clone3, // As far as the C library needs to be told that it is not there.
    libc::SYS_exit,
    libc::SYS_exit_group,
    libc::SYS_futex,
    libc::SYS_set_robust_list,
    libc::SYS_set_tid_address,
    libc::SYS_rseq,
    libc::SYS_sched_getaffinity,
    libc::SYS_sched_yield,
    libc::SYS_sigaltstack,
    libc::SYS_rt_sigaction,
    libc::SYS_rt_sigprocmask,
    libc::SYS_rt_sigreturn,
    libc::SYS_tgkill,
    libc::SYS_gettid,
    libc::SYS_getpid,
    libc::SYS_prctl,
    libc::SYS_mmap,
    libc::SYS_munmap,
    libc::SYS_mremap,
    libc::SYS_mprotect,
    libc::SYS_madvise,
    libc::SYS_brk,
    libc::SYS_getrandom,
    libc::SYS_clock_gettime,
    libc::SYS_clock_nanosleep,
    libc::SYS_nanosleep,
    libc::SYS_restart_syscall,
];

/// By these the C library does what newer ones do elsewhere.
#[cfg(target_arch = "x86_64")]
const DOOR_HERE: &[i64] = &[
    libc::SYS_open,
    libc::SYS_stat,
    libc::SYS_lstat,
    libc::SYS_mkdir,
    libc::SYS_rmdir,
    libc::SYS_unlink,
    libc::SYS_rename,
    libc::SYS_link,
    libc::SYS_readlink,
];
#[cfg(not(target_arch = "x86_64"))]
const DOOR_HERE: &[i64] = &[];

/// Refuses the agent's process, from here on, what it has no use for.
///
/// # Errors
/// When the kernel has no filters of system calls, or this processor none that are known.
pub(super) fn deny_to_agent() -> anyhow::Result<()> {
    let mut rules = Rules::new();
    for call in NEVER.iter().chain(NEVER_HERE) {
        rules.insert(*call, Vec::new());
        rules.extend(OTHER_ABI.map(|bit| (call | bit, Vec::new())));
    }
    let made = |flag: &i32| rule([masked(*flag, *flag)?]);
    rules.insert(libc::SYS_clone, NAMESPACES.iter().map(made).collect::<anyhow::Result<_>>()?);
    let other = AGENT_FAMILIES.iter().map(|family| condition(0, SeccompCmpOp::Ne, *family));
    rules.insert(libc::SYS_socket, vec![rule(other.collect::<anyhow::Result<Vec<_>>>()?)?]);
    take_clone3()?;
    apply(rules, SeccompAction::Allow, refusal())
}

/// Leaves the door's process, from here on, what it has a use for.
///
/// # Errors
/// As for the agent.
pub(super) fn allow_to_door() -> anyhow::Result<()> {
    let mut rules: Rules = DOOR.iter().chain(DOOR_HERE).map(|call| (*call, Vec::new())).collect();
    let opened = DOOR_FAMILIES.iter().map(|family| rule([condition(0, SeccompCmpOp::Eq, *family)?]));
    rules.insert(libc::SYS_socket, opened.collect::<anyhow::Result<_>>()?);
    let all = NAMESPACES.iter().fold(0, |all, flag| all | flag);
    rules.insert(libc::SYS_clone, vec![rule([masked(all, 0)?])?]);
    take_clone3()?;
    apply(rules, refusal(), SeccompAction::Allow)
}

/// What this call makes is said in memory, where no filter looks; without it the C library takes the older one.
fn take_clone3() -> anyhow::Result<()> {
    let absent = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    apply(Rules::from([(libc::SYS_clone3, Vec::new())]), SeccompAction::Allow, absent)
}

fn refusal() -> SeccompAction {
    SeccompAction::Errno(libc::EPERM.unsigned_abs())
}

fn apply(rules: Rules, others: SeccompAction, these: SeccompAction) -> anyhow::Result<()> {
    let architecture = TargetArch::try_from(std::env::consts::ARCH)?;
    let filter: BpfProgram = SeccompFilter::new(rules, others, these, architecture)?.try_into()?;
    match seccompiler::apply_filter(&filter) {
        Err(seccompiler::Error::Seccomp(error) | seccompiler::Error::Prctl(error)) => {
            bail!(
                "the kernel takes no filter of system calls ({error}): it needs CONFIG_SECCOMP_FILTER, and a service manager that allows seccomp(2)"
            )
        }
        applied => Ok(applied?),
    }
}

fn rule(conditions: impl Into<Vec<SeccompCondition>>) -> anyhow::Result<SeccompRule> {
    Ok(SeccompRule::new(conditions.into())?)
}

/// Of these flags of the first argument, just those are set.
fn masked(flags: i32, set: i32) -> anyhow::Result<SeccompCondition> {
    condition(0, SeccompCmpOp::MaskedEq(flags.unsigned_abs().into()), set)
}

fn condition(argument: u8, compared: SeccompCmpOp, value: i32) -> anyhow::Result<SeccompCondition> {
    Ok(SeccompCondition::new(argument, SeccompCmpArgLen::Dword, compared, value.unsigned_abs().into())?)
}
