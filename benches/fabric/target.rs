//! What is called: a host directly, or an endpoint of either kind through the fabric.

use crate::{
    common::{bed::Bed, lab::Place, way::Way},
    table::Column,
};

/// How a connection gets from alpha to beta.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// The kernels' TCP over the link.
    Direct,
    /// Through the fabric, to an endpoint in a namespace: userspace TCP at both ends.
    Namespace,
    /// Through the fabric, to an endpoint that is a user of the host: the kernel's TCP at its end.
    User,
}

impl Target {
    pub const ALL: [Self; 3] = [Self::Direct, Self::Namespace, Self::User];

    /// The way from the caller.
    pub fn way(self, bed: &Bed) -> Way {
        self.way_of(bed, "caller")
    }

    /// The way from a caller that takes all it can get: a workload of its own.
    pub fn way_of_rogue(self, bed: &Bed, held: bool) -> Way {
        self.way_of(bed, if held { "held" } else { "rogue" })
    }

    fn way_of(self, bed: &Bed, workload: &str) -> Way {
        match self {
            Self::Direct => bed.direct(),
            Self::Namespace => bed.through_fabric(workload, "space"),
            Self::User => bed.through_fabric(workload, "user"),
        }
    }

    /// Where its servers are, and at which address.
    pub fn server(self, bed: &Bed) -> (Place, String) {
        match self {
            Self::Direct => (bed.lab.host("beta"), bed.lab.host_address("beta").to_string()),
            Self::Namespace => (bed.lab.workload("space"), "0.0.0.0".to_owned()),
            Self::User => (bed.lab.workload("user"), "127.0.0.1".to_owned()),
        }
    }

    /// The column of its figures.
    pub fn column(self) -> Column {
        match self {
            Self::Direct => Column::Direct,
            Self::Namespace | Self::User => Column::Fabric,
        }
    }
}

/// Starts the servers of all.
pub fn serve(bed: &mut Bed) {
    for target in Target::ALL {
        let (place, address) = target.server(bed);
        bed.serve(&place, &address);
    }
}
