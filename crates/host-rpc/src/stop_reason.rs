//! Causes of ends as messages.

use model::StopReason;

use crate::StopReason as Message;

/// Converts a cause to its message.
#[must_use]
pub const fn to_message(reason: Option<StopReason>) -> Message {
    match reason {
        None => Message::STOP_REASON_UNSPECIFIED,
        Some(StopReason::UserRequest) => Message::STOP_REASON_USER_REQUEST,
        Some(StopReason::IdleTimeout) => Message::STOP_REASON_IDLE_TIMEOUT,
        Some(StopReason::EndTime) => Message::STOP_REASON_END_TIME,
        Some(StopReason::GuestShutdown) => Message::STOP_REASON_GUEST_SHUTDOWN,
        Some(StopReason::GuestReboot) => Message::STOP_REASON_GUEST_REBOOT,
        Some(StopReason::GuestCrashed) => Message::STOP_REASON_GUEST_CRASHED,
        Some(StopReason::VmmExited) => Message::STOP_REASON_VMM_EXITED,
        Some(StopReason::StartFailed) => Message::STOP_REASON_START_FAILED,
        Some(StopReason::OutOfDisk) => Message::STOP_REASON_OUT_OF_DISK,
        Some(StopReason::HostLost) => Message::STOP_REASON_HOST_LOST,
    }
}

/// Converts a message to a cause; `None` for one that this version does not know.
#[must_use]
pub fn from_message(message: Option<Message>) -> Option<StopReason> {
    let mut all = StopReason::ALL.into_iter();
    all.find(|reason| message == Some(to_message(Some(*reason))))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_cause_comes_back() {
        for reason in StopReason::ALL {
            assert_eq!(from_message(Some(to_message(Some(reason)))), Some(reason));
        }
        assert_eq!(from_message(Some(to_message(None))), None);
        assert_eq!(from_message(None), None);
    }
}
