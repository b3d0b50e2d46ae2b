//! Each call of a host to a guest agent, made as users make it: over the service of the host agent.

use connectrpc::ConnectError;
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::write_file_request::Part;
use host_rpc::__buffa::oneof::write_upload_request::Part as UploadPart;
use model::SandboxId;
use testkit::envd::Call;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

use crate::agent::{Agent, TOKEN};

/// A port on which nothing listens, so that the way leads through the guest agent.
const PORT: u16 = 1;
/// Messages of an upload, a quarter of a MiB each.
const UPLOAD_CHUNKS: usize = 4;

pub async fn make(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    match call {
        // Each sandbox here has a start command.
        Call::Health | Call::Init | Call::Supervise => agent.ensure(id).await,
        Call::Freeze => agent.pause(id).await,
        Call::Thaw => agent.checkpoint(id).await,
        Call::Start => agent.exec(id).await.map(drop),
        Call::Tunnel => tunnel(agent, id)
            .await
            .map_err(|error| ConnectError::unavailable(error.to_string())),
        Call::SendInput | Call::CloseStdin | Call::Update | Call::SendSignal => {
            program(agent, id, call).await
        }
        Call::StartCommand
        | Call::ListCommands
        | Call::GetCommand
        | Call::SendCommandInput
        | Call::SignalCommand
        | Call::AttachCommand => background(agent, id, call).await,
        Call::ReadFile | Call::WriteFile => content(agent, id, call).await,
        Call::Stat | Call::ListDir | Call::ListPage | Call::MakeDir | Call::Remove => {
            path(agent, id, call).await
        }
        Call::Move | Call::SetMode | Call::SetOwner => change(agent, id, call).await,
        Call::Watch => watch(agent, id).await,
        Call::Search => search(agent, id).await,
        Call::BeginUpload | Call::GetUpload | Call::WriteUpload | Call::RemoveUpload => {
            upload(agent, id, call).await
        }
    }
}

async fn program(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let sandbox_id = id.to_string();
    if call == Call::SendSignal {
        let request = rpc::SendSignalRequest {
            sandbox_id,
            pid: 1,
            signal: 15,
            ..Default::default()
        };
        return agent
            .client()
            .commands()
            .send_signal(request)
            .await
            .map(drop);
    }
    let data = if call == Call::SendInput {
        b"input".to_vec()
    } else {
        Vec::new()
    };
    let size = rpc::TerminalSize {
        cols: 80,
        rows: 24,
        ..Default::default()
    };
    let resize = (call == Call::Update).then_some(size).into();
    let close = call == Call::CloseStdin;
    let request = rpc::SendInputRequest {
        sandbox_id,
        pid: 1,
        data,
        close,
        resize,
        ..Default::default()
    };
    agent
        .client()
        .commands()
        .send_input(request)
        .await
        .map(drop)
}

async fn background(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let (sandbox_id, command) = (id.to_string(), "cmd-00000001".to_owned());
    let client = agent.client();
    let client = client.commands();
    match call {
        Call::StartCommand => {
            let request = rpc::StartCommandRequest {
                sandbox_id,
                cmd: "make".to_owned(),
                ..Default::default()
            };
            client.start_command(request).await.map(drop)
        }
        Call::ListCommands => {
            let request = rpc::ListCommandsRequest {
                sandbox_id,
                ..Default::default()
            };
            client.list_commands(request).await.map(drop)
        }
        Call::SendCommandInput => {
            let request = rpc::SendCommandInputRequest {
                sandbox_id,
                command,
                data: b"input".to_vec(),
                ..Default::default()
            };
            client.send_command_input(request).await.map(drop)
        }
        Call::SignalCommand => {
            let request = rpc::SignalCommandRequest {
                sandbox_id,
                command,
                signal: 15,
                ..Default::default()
            };
            client.signal_command(request).await.map(drop)
        }
        Call::AttachCommand => {
            let request = rpc::AttachCommandRequest {
                sandbox_id,
                command,
                follow: true,
                ..Default::default()
            };
            let mut output = client.attach_command(request).await?;
            while output
                .message::<rpc::AttachCommandResponse>()
                .await?
                .is_some()
            {}
            Ok(())
        }
        _ => {
            let request = rpc::GetCommandRequest {
                sandbox_id,
                command,
                ..Default::default()
            };
            client.get_command(request).await.map(drop)
        }
    }
}

async fn content(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let (sandbox_id, path) = (id.to_string(), "/file".to_owned());
    if call == Call::ReadFile {
        let request = rpc::ReadFileRequest {
            sandbox_id,
            path,
            ..Default::default()
        };
        let client = agent.client();
        let mut content = client.files().read_file(request).await?;
        while content.message::<rpc::ReadFileResponse>().await?.is_some() {}
        return Ok(());
    }
    let target = rpc::WriteFileTarget {
        sandbox_id,
        path,
        ..Default::default()
    };
    let data = Part::Data(vec![0; rpc::FILE_CHUNK_BYTES]);
    let parts = [Part::from(target)].into_iter();
    let parts = parts
        .chain(std::iter::repeat_n(data, UPLOAD_CHUNKS))
        .chain([Part::from(rpc::write_file_request::WriteFileDone::default())]);
    let requests = parts.map(|part| rpc::WriteFileRequest {
        part: Some(part),
        ..Default::default()
    });
    agent
        .client()
        .files()
        .write_file(futures::stream::iter(requests).boxed())
        .await
        .map(drop)
}

async fn path(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let (sandbox_id, path) = (id.to_string(), "/directory".to_owned());
    match call {
        Call::ListDir | Call::ListPage => {
            let request = rpc::ListDirRequest {
                sandbox_id,
                path,
                depth: 1,
                ..Default::default()
            };
            agent.client().files().list_dir(request).await.map(drop)
        }
        Call::MakeDir => {
            let request = rpc::MakeDirRequest {
                sandbox_id,
                path,
                ..Default::default()
            };
            agent.client().files().make_dir(request).await.map(drop)
        }
        Call::Remove => {
            let request = rpc::RemovePathRequest {
                sandbox_id,
                path,
                ..Default::default()
            };
            agent.client().files().remove_path(request).await.map(drop)
        }
        _ => {
            let request = rpc::StatPathRequest {
                sandbox_id,
                path,
                ..Default::default()
            };
            agent.client().files().stat_path(request).await.map(drop)
        }
    }
}

async fn change(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let (sandbox_id, path) = (id.to_string(), "/file".to_owned());
    let client = agent.client();
    match call {
        Call::Move => {
            let request = rpc::MovePathRequest {
                sandbox_id,
                source: path.clone(),
                destination: path,
                ..Default::default()
            };
            client.files().move_path(request).await.map(drop)
        }
        Call::SetMode => {
            let request = rpc::SetModeRequest {
                sandbox_id,
                path,
                mode: "0600".to_owned(),
                ..Default::default()
            };
            client.files().set_mode(request).await.map(drop)
        }
        _ => {
            let request = rpc::SetOwnerRequest {
                sandbox_id,
                path,
                owner: Some("root".to_owned()),
                ..Default::default()
            };
            client.files().set_owner(request).await.map(drop)
        }
    }
}

/// Watches a directory to the end of the watch.
async fn watch(agent: &Agent, id: &SandboxId) -> Result<(), ConnectError> {
    let request = rpc::WatchDirRequest {
        sandbox_id: id.to_string(),
        path: "/directory".to_owned(),
        ..Default::default()
    };
    let client = agent.client();
    let mut changes = client.files().watch_dir(request).await?;
    while changes.message::<rpc::WatchDirResponse>().await?.is_some() {}
    Ok(())
}

/// Searches to the end.
async fn search(agent: &Agent, id: &SandboxId) -> Result<(), ConnectError> {
    let request = rpc::SearchRequest {
        sandbox_id: id.to_string(),
        path: "/directory".to_owned(),
        name: Some("*".to_owned()),
        max_matches: 1000,
        ..Default::default()
    };
    let client = agent.client();
    let mut found = client.files().search(request).await?;
    while found.message::<rpc::SearchResponse>().await?.is_some() {}
    Ok(())
}

async fn upload(agent: &Agent, id: &SandboxId, call: Call) -> Result<(), ConnectError> {
    let (sandbox_id, upload_id) = (id.to_string(), "1f".to_owned());
    let client = agent.client();
    match call {
        Call::BeginUpload => {
            let request = rpc::BeginUploadRequest {
                sandbox_id,
                path: "/file".to_owned(),
                length: 10,
                ..Default::default()
            };
            client.files().begin_upload(request).await.map(drop)
        }
        Call::GetUpload => {
            let request = rpc::GetUploadRequest {
                sandbox_id,
                upload_id,
                ..Default::default()
            };
            client.files().get_upload(request).await.map(drop)
        }
        Call::RemoveUpload => {
            let request = rpc::RemoveUploadRequest {
                sandbox_id,
                upload_id,
                ..Default::default()
            };
            client.files().remove_upload(request).await.map(drop)
        }
        _ => {
            let target = rpc::write_upload_request::UploadTarget {
                sandbox_id,
                upload_id,
                offset: 5,
                ..Default::default()
            };
            let data = UploadPart::Data(vec![0; rpc::FILE_CHUNK_BYTES]);
            let done = rpc::write_upload_request::UploadPartDone::default();
            let parts = [UploadPart::from(target)].into_iter();
            let parts = parts
                .chain(std::iter::repeat_n(data, UPLOAD_CHUNKS))
                .chain([UploadPart::from(done)]);
            let requests = parts.map(|part| rpc::WriteUploadRequest {
                part: Some(part),
                ..Default::default()
            });
            let requests = futures::stream::iter(requests).boxed();
            client.files().write_upload(requests).await.map(drop)
        }
    }
}

/// Opens a tunnel and reads what comes of it.
async fn tunnel(agent: &Agent, id: &SandboxId) -> std::io::Result<()> {
    let mut stream = TcpStream::connect(agent.address).await?;
    let (path, protocol) = (rpc::tunnel::tunnel_path(id, PORT), rpc::tunnel::PROTOCOL);
    let head = format!(
        "GET {path} HTTP/1.1\r\nhost: agent\r\nauthorization: Bearer {TOKEN}\r\nconnection: upgrade\r\n\
         upgrade: {protocol}\r\n\r\n"
    );
    stream.write_all(head.as_bytes()).await?;
    let mut buffer = vec![0; 4096];
    while stream.read(&mut buffer).await? > 0 {}
    Ok(())
}
