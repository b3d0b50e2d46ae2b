//! The calls that a host makes.

/// Call of a guest agent. [`Call::ALL`] has every one that `hostd::guest` makes, but the question
/// whether commands keep the sandbox in use.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Call {
    Health,
    Init,
    Freeze,
    Thaw,
    ReadFile,
    WriteFile,
    Tunnel,
    Start,
    SendInput,
    CloseStdin,
    Update,
    SendSignal,
    Stat,
    ListDir,
    MakeDir,
    Remove,
    Move,
    SetMode,
    SetOwner,
    ListPage,
    StartCommand,
    ListCommands,
    GetCommand,
    SendCommandInput,
    SignalCommand,
    AttachCommand,
}

impl Call {
    pub const ALL: [Self; 26] = [
        Self::Health,
        Self::Init,
        Self::Freeze,
        Self::Thaw,
        Self::ReadFile,
        Self::WriteFile,
        Self::Tunnel,
        Self::Start,
        Self::SendInput,
        Self::CloseStdin,
        Self::Update,
        Self::SendSignal,
        Self::Stat,
        Self::ListDir,
        Self::MakeDir,
        Self::Remove,
        Self::Move,
        Self::SetMode,
        Self::SetOwner,
        Self::ListPage,
        Self::StartCommand,
        Self::ListCommands,
        Self::GetCommand,
        Self::SendCommandInput,
        Self::SignalCommand,
        Self::AttachCommand,
    ];

    /// Returns the call that the head of an HTTP request makes.
    pub(super) fn from_head(head: &[u8]) -> Option<Self> {
        let line = String::from_utf8_lossy(head.split(|byte| *byte == b'\r').next()?).into_owned();
        let mut words = line.split(' ');
        let method = words.next()?;
        let target = words.next()?;
        let path = target.split('?').next()?;
        Some(match (method, path.trim_start_matches('/')) {
            (_, "health") => Self::Health,
            (_, "init") => Self::Init,
            (_, "freeze") => Self::Freeze,
            (_, "thaw") => Self::Thaw,
            ("GET", "files") => Self::ReadFile,
            ("POST", "files") => Self::WriteFile,
            (_, path) if path.starts_with("tunnel/") => Self::Tunnel,
            (_, "process.Process/Start") => Self::Start,
            (_, "process.Process/SendInput") => Self::SendInput,
            (_, "process.Process/CloseStdin") => Self::CloseStdin,
            (_, "process.Process/Update") => Self::Update,
            (_, "process.Process/SendSignal") => Self::SendSignal,
            (_, "filesystem.Filesystem/Stat") => Self::Stat,
            (_, "filesystem.Filesystem/ListDir") => Self::ListDir,
            (_, "filesystem.Filesystem/MakeDir") => Self::MakeDir,
            (_, "filesystem.Filesystem/Remove") => Self::Remove,
            (_, "file.FileService/Move") => Self::Move,
            (_, "file.FileService/SetMode") => Self::SetMode,
            (_, "file.FileService/SetOwner") => Self::SetOwner,
            (_, "file.FileService/ListPage") => Self::ListPage,
            (_, "command.CommandService/Start") => Self::StartCommand,
            (_, "command.CommandService/List") => Self::ListCommands,
            (_, "command.CommandService/Get") => Self::GetCommand,
            (_, "command.CommandService/SendInput") => Self::SendCommandInput,
            (_, "command.CommandService/SendSignal") => Self::SignalCommand,
            (_, "command.CommandService/Attach") => Self::AttachCommand,
            _ => return None,
        })
    }
}
