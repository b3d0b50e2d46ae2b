//! The root file system, held still while the host stops the machine.
//!
//! The kernel keeps it frozen, and [`Disk`] knows whether it is; both are part of a snapshot, so
//! they agree after a restore too. One lock puts freezes and thaws in the order in which they came:
//! a machine that is stopped in the middle of a freeze ends that freeze when it runs again, and
//! only then a thaw gets its turn. Reads are not blocked: the kernel does not update access times
//! on a frozen file system (`touch_atime`).

use std::fs::{self, File};
use std::io;
use std::os::fd::AsFd;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use guest_rpc::http::{FreezeAnswer, FreezeRequest};
use nix::libc::{EBUSY, EINVAL, EOPNOTSUPP};
use nix::sys::statvfs::statvfs;
use tokio::sync::{Mutex, OwnedMutexGuard};

use crate::http::error::HttpError;
use crate::{own_thread, syscall};

/// Bytes of the file system that are trimmed between two looks at the clock.
const TRIM_STEP: u64 = 1 << 30;

/// The file system of one folder.
#[derive(Debug)]
pub struct Disk {
    root: PathBuf,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    frozen: bool,
    /// Number of freezes and thaws so far, so that a thaw that was put off can tell whether it
    /// still means this freeze.
    serial: u64,
}

impl Disk {
    /// Creates the handle of the file system at `root`, which is taken to be thawed.
    pub fn new(root: &Path) -> Self {
        Self {
            root: root.to_owned(),
            state: Arc::default(),
        }
    }

    /// Returns true if nothing can be written now, or a freeze or thaw is under way. Never waits.
    pub fn is_held(&self) -> bool {
        self.state.try_lock().map_or(true, |state| state.frozen)
    }

    /// Freezes the file system. Once it has its turn it goes on to its end, also when the caller
    /// hangs up.
    ///
    /// # Errors
    /// 500 where no thread could be had for it; that the file system cannot be frozen is an answer.
    pub async fn freeze(self: Arc<Self>, wish: FreezeRequest) -> Result<FreezeAnswer, HttpError> {
        let begin = Instant::now();
        let state = self.state.clone().lock_owned().await;
        tokio::spawn(self.freeze_in_turn(state, wish, begin))
            .await
            .map_err(|e| HttpError::internal(e.to_string()))?
    }

    async fn freeze_in_turn(
        self: Arc<Self>,
        mut state: OwnedMutexGuard<State>,
        wish: FreezeRequest,
        begin: Instant,
    ) -> Result<FreezeAnswer, HttpError> {
        let root = self.root.clone();
        let frozen = state.frozen;
        let thaw_after = wish.thaw_after_ms;
        let outcome = own_thread::run(move || {
            if !frozen {
                prepare(&root, &wish, begin);
            }
            freeze(&root)
        })
        .await?;
        state.frozen = outcome.is_ok();
        state.serial += 1;
        if let (true, Some(milliseconds)) = (state.frozen, thaw_after) {
            tokio::spawn(
                self.clone()
                    .thaw_later(state.serial, Duration::from_millis(milliseconds)),
            );
        }
        Ok(FreezeAnswer {
            frozen: state.frozen,
            why: outcome.err().map(|e| e.to_string()),
        })
    }

    /// Thaws the file system; fine where nothing is frozen.
    ///
    /// # Errors
    /// 500 where the kernel refuses.
    pub async fn thaw(&self) -> Result<(), HttpError> {
        let state = self.state.clone().lock_owned().await;
        self.thaw_in_turn(state).await
    }

    async fn thaw_in_turn(&self, mut state: OwnedMutexGuard<State>) -> Result<(), HttpError> {
        let root = self.root.clone();
        own_thread::run(move || {
            thaw(&root).map_err(|e| {
                HttpError::internal(format!("the root file system cannot be thawed: {e}"))
            })?;
            state.frozen = false;
            state.serial += 1;
            Ok(())
        })
        .await?
    }

    async fn thaw_later(self: Arc<Self>, serial: u64, after: Duration) {
        tokio::time::sleep(after).await;
        let state = self.state.clone().lock_owned().await;
        if state.serial == serial {
            tracing::warn!(
                "the root file system was not thawed within {} ms: it is now",
                after.as_millis()
            );
            if let Err(e) = self.thaw_in_turn(state).await {
                tracing::error!("{e}");
            }
        }
    }
}

fn freeze(root: &Path) -> io::Result<()> {
    match syscall::freeze_filesystem(File::open(root)?.as_fd()) {
        // Frozen already, by us or by the user.
        Err(e) if e.raw_os_error() == Some(EBUSY) => Ok(()),
        other => other,
    }
}

fn thaw(root: &Path) -> io::Result<()> {
    match syscall::thaw_filesystem(File::open(root)?.as_fd()) {
        // It is not frozen, or never can be.
        Err(e) if [EINVAL, EOPNOTSUPP].map(Some).contains(&e.raw_os_error()) => Ok(()),
        other => other,
    }
}

/// Makes a snapshot smaller. Errors are not worth failing a freeze for.
fn prepare(root: &Path, wish: &FreezeRequest, begin: Instant) {
    let left = || {
        wish.limit_ms
            .is_none_or(|limit| begin.elapsed() < Duration::from_millis(limit))
    };
    let tell = |what: &str, e: &io::Error| tracing::info!("before the freeze, {what} failed: {e}");
    if !(wish.trim || wish.drop_caches) || !left() {
        return;
    }
    // First: only what is on disk is a mere copy, and only what is freed on disk can be given back.
    if let Err(e) = File::open(root).and_then(|folder| Ok(rustix::fs::syncfs(folder)?)) {
        tell("the flush", &e);
    }
    if wish.drop_caches && left() {
        // 1: pages only. Directory entries and inodes are few and dear (proc_sys_vm(5)).
        fs::write("/proc/sys/vm/drop_caches", "1").unwrap_or_else(|e| tell("dropping caches", &e));
    }
    if wish.trim {
        trim(root, left).unwrap_or_else(|e| tell("the trim", &e));
    }
}

fn trim(root: &Path, left: impl Fn() -> bool) -> io::Result<()> {
    let folder = File::open(root)?;
    let size = statvfs(root)?;
    let end = size.blocks().saturating_mul(size.fragment_size());
    let mut start = 0;
    while start < end && left() {
        syscall::trim_filesystem(folder.as_fd(), start, TRIM_STEP.min(end - start))?;
        start += TRIM_STEP;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::process::Command;

    use nix::mount::{MsFlags, mount};
    use nix::sched::{CloneFlags, unshare};
    use tokio::time::timeout;

    use super::*;

    /// Long enough for a write that nothing holds up.
    const MOMENT: Duration = Duration::from_millis(300);
    const PATIENCE: Duration = Duration::from_secs(10);

    /// Thaws also where a test fails: a frozen file system would never go away.
    struct Ext4 {
        root: PathBuf,
        _folder: tempfile::TempDir,
    }

    impl Drop for Ext4 {
        fn drop(&mut self) {
            thaw(&self.root).expect("can be thawed");
        }
    }

    fn program(name: &str, arguments: &[&str]) {
        let status = Command::new(name)
            .args(arguments)
            .output()
            .expect("can be started")
            .status;
        assert!(status.success(), "{name} {arguments:?}");
    }

    fn ext4() -> Ext4 {
        let folder = tempfile::tempdir().expect("a temporary folder");
        let image = folder.path().join("image");
        let root = folder.path().join("root");
        File::create(&image)
            .expect("a file")
            .set_len(16 << 20)
            .expect("a size");
        fs::create_dir(&root).expect("a folder");
        let [image, target] = [&image, &root].map(|path| path.to_str().expect("plain").to_owned());
        program("mkfs.ext4", &["-q", &image]);
        program("mount", &["-t", "ext4", "-o", "loop", &image, &target]);
        Ext4 {
            root,
            _folder: folder,
        }
    }

    /// Runs `act` on the root of an ext4 in a mount namespace that ends with its thread, and the
    /// mount with it.
    fn apart<F: Future<Output = ()>>(act: impl FnOnce(PathBuf) -> F + Send + 'static) {
        let thread = std::thread::spawn(|| {
            unshare(CloneFlags::CLONE_NEWNS).expect("a mount namespace: this needs root");
            let private = MsFlags::MS_REC | MsFlags::MS_PRIVATE;
            mount(None::<&str>, "/", None::<&str>, private, None::<&str>)
                .expect("nothing gets out");
            let disk = ext4();
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .expect("a runtime");
            runtime.block_on(act(disk.root.clone()));
        });
        thread.join().expect("the test holds");
    }

    async fn can_write(root: &Path) -> bool {
        let path = root.join("written");
        let writing = own_thread::run(move || fs::write(path, "x").expect("can be written"));
        timeout(MOMENT, writing).await.is_ok()
    }

    #[test]
    fn freeze_blocks_writes_until_thaw() {
        apart(async |root| {
            let disk = Arc::new(Disk::new(&root));
            disk.thaw().await.expect("fine where nothing is frozen");
            assert!(can_write(&root).await && !disk.is_held());
            let wish = FreezeRequest {
                trim: true,
                limit_ms: Some(1000),
                ..Default::default()
            };
            for _ in 0..2 {
                let answer = disk.clone().freeze(wish.clone()).await.expect("an answer");
                assert_eq!(
                    answer,
                    FreezeAnswer {
                        frozen: true,
                        why: None
                    }
                );
            }
            assert!(disk.is_held() && !can_write(&root).await);
            assert_eq!(
                fs::read_to_string(root.join("written")).expect("reading goes on"),
                "x"
            );
            for _ in 0..2 {
                timeout(PATIENCE, disk.thaw())
                    .await
                    .expect("in time")
                    .expect("thaws");
            }
            assert!(!disk.is_held() && can_write(&root).await);
        });
    }

    #[test]
    fn thaw_ends_freeze_of_gone_caller() {
        apart(async |root| {
            let disk = Arc::new(Disk::new(&root));
            for _ in 0..20 {
                let mut hung_up = Box::pin(disk.clone().freeze(FreezeRequest::default()));
                assert!(futures::poll!(&mut hung_up).is_pending());
                drop(hung_up);
                disk.thaw().await.expect("thaws");
                assert!(!disk.is_held());
            }
            assert!(can_write(&root).await);
        });
    }

    #[test]
    fn absent_host_leaves_no_frozen_disk() {
        apart(async |root| {
            let disk = Arc::new(Disk::new(&root));
            let wish = |thaw_after_ms| FreezeRequest {
                thaw_after_ms,
                ..Default::default()
            };
            for milliseconds in [Some(1), None] {
                assert!(
                    disk.clone()
                        .freeze(wish(milliseconds))
                        .await
                        .expect("an answer")
                        .frozen
                );
            }
            tokio::time::sleep(MOMENT).await;
            assert!(disk.is_held(), "the second freeze has no such limit");
            disk.thaw().await.expect("thaws");
            assert!(
                disk.clone()
                    .freeze(wish(Some(1)))
                    .await
                    .expect("an answer")
                    .frozen
            );
            tokio::time::sleep(MOMENT).await;
            assert!(!disk.is_held() && can_write(&root).await);
        });
    }

    #[tokio::test]
    async fn what_cannot_be_frozen_says_why() {
        let disk = Arc::new(Disk::new(Path::new("/proc")));
        let answer = disk
            .clone()
            .freeze(FreezeRequest::default())
            .await
            .expect("an answer");
        assert!(!answer.frozen && answer.why.is_some() && !disk.is_held());
        disk.thaw().await.expect("fine");
    }
}
