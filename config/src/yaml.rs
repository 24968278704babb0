//! From YAML text to a tree in which every node knows its place, and the collecting of mistakes while it is read.
//!
//! The tree is untyped on purpose: a typed model would stop at its first mistake, and an operator should see them all.

mod fields;
mod report;
mod tree;

pub(crate) use fields::{Entry, Fields, Shape, names, reference};
pub(crate) use report::{Mark, Report, printable};
pub(crate) use tree::{Key, Node, Value, parse, parse_documents};
