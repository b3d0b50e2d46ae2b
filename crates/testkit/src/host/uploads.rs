//! Uploads of fake sandboxes. What of a part came before a break is kept.

use connectrpc::{ConnectError, InboundStream};
use futures::StreamExt;
use host_rpc as rpc;
use host_rpc::__buffa::oneof::write_upload_request::Part;

use super::{Shared, files};

/// An upload of a fake sandbox.
#[derive(Debug, Clone)]
pub struct Upload {
    pub id: String,
    pub path: String,
    pub length: u64,
    pub sha256: Option<String>,
    pub data: Vec<u8>,
    pub is_complete: bool,
}

impl Upload {
    fn info(&self) -> rpc::UploadInfo {
        rpc::UploadInfo {
            upload_id: self.id.clone(),
            offset: self.data.len() as u64,
            length: self.length,
            is_complete: self.is_complete,
            ..Default::default()
        }
    }
}

fn unknown(id: &str) -> ConnectError {
    ConnectError::not_found(format!("upload '{id}' does not exist"))
}

pub(super) fn begin(
    shared: &Shared,
    request: &rpc::BeginUploadRequest,
) -> Result<rpc::UploadInfo, ConnectError> {
    let path = files::absolute(&request.path)?;
    let mut world = shared.world();
    let id = format!("{:032x}", world.uploads.len() + 1);
    let upload = Upload {
        id,
        path,
        length: request.length,
        sha256: request.sha256.clone(),
        data: Vec::new(),
        is_complete: false,
    };
    let info = upload.info();
    world.uploads.push(upload);
    Ok(info)
}

pub(super) fn get(shared: &Shared, id: &str) -> Result<rpc::UploadInfo, ConnectError> {
    let world = shared.world();
    let found = world.uploads.iter().find(|upload| upload.id == id);
    found.map(Upload::info).ok_or_else(|| unknown(id))
}

pub(super) fn remove(shared: &Shared, id: &str) -> Result<(), ConnectError> {
    let mut world = shared.world();
    let before = world.uploads.len();
    world.uploads.retain(|upload| upload.id != id);
    match world.uploads.len() < before {
        true => Ok(()),
        false => Err(unknown(id)),
    }
}

pub(super) async fn write(
    shared: &Shared,
    mut requests: InboundStream<rpc::WriteUploadRequest>,
) -> Result<rpc::UploadInfo, ConnectError> {
    let first = requests.next().await.transpose()?;
    let Some(Part::Target(target)) = first.and_then(|first| first.to_owned_message().part) else {
        return Err(ConnectError::invalid_argument("no target"));
    };
    let id = target.upload_id.clone();
    let at = get(shared, &id)?.offset;
    if at != target.offset {
        let text = format!("the upload is at offset {at}, not at {}", target.offset);
        return Err(ConnectError::already_exists(text));
    }
    loop {
        let message = requests.next().await.transpose()?;
        let part = message.and_then(|message| message.to_owned_message().part);
        let mut world = shared.world();
        let found = world.uploads.iter_mut().find(|upload| upload.id == id);
        let upload = found.ok_or_else(|| unknown(&id))?;
        match part {
            Some(Part::Data(data)) => upload.data.extend(data),
            Some(Part::Done(_)) => {
                upload.is_complete = upload.data.len() as u64 == upload.length;
                return Ok(upload.info());
            }
            _ => return Err(ConnectError::internal("the part broke off")),
        }
    }
}
