//! Which boot of the machine this is. Until the machine boots again, its page cache has everything that a process
//! wrote, whether or not that was synced.

use std::fs;

use uuid::Uuid;

/// Linux makes a new random id at each boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// What is known about the boot of the machine. By default nothing is: then a start expects what a power loss
/// may leave.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Boot {
    /// The boot's id, where the system tells it.
    pub id: Option<Uuid>,
    /// Whether a start in this boot has already opened every log: no power was lost since.
    pub is_same: bool,
}

impl Boot {
    /// The present boot; `remembered` is the id of the boot in which all logs were last opened.
    pub(super) fn now(remembered: Option<&str>) -> Boot {
        let id: Option<Uuid> =
            fs::read_to_string(BOOT_ID).ok().and_then(|text| text.trim().parse().ok());
        let remembered = remembered.and_then(|text| text.parse().ok());
        Boot { id, is_same: id.is_some() && id == remembered }
    }

    /// Whether `boot` is this one.
    pub(super) fn is(&self, boot: Option<Uuid>) -> bool {
        boot.is_some() && boot == self.id
    }
}
