use super::*;
use crate::programs;

#[test]
fn a_namespace_comes_and_goes() {
    let name = format!("wtest-ns-{}", std::process::id());
    create(&name).unwrap();
    assert_eq!(
        create(&name).unwrap_err().kind(),
        io::ErrorKind::AlreadyExists
    );
    let links = enter(&name, || fs::read_to_string("/proc/thread-self/net/dev")).unwrap();
    assert_eq!(
        links.lines().filter(|line| line.contains(':')).count(),
        1,
        "only lo: {links}"
    );
    assert!(list("wtest-ns-").unwrap().contains(&name) && exists(&name));
    remove(&name).unwrap();
    remove(&name).unwrap();
    assert!(!list("wtest-ns-").unwrap().contains(&name) && !exists(&name));
}

#[test]
fn half_made_namespace_is_removed() {
    let name = format!("wtest-half-{}", std::process::id());
    mount_dir().unwrap();
    File::create(path(&name)).unwrap();
    remove(&name).unwrap();
    assert!(!path(&name).exists());
}

/// Runs `work` with a `/run` of its own, which is shared as systemd makes it.
fn with_own_run(work: impl FnOnce() -> io::Result<()> + Send + 'static) {
    let done = on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNS)?;
        mount(
            None::<&str>,
            "/",
            None::<&str>,
            MsFlags::MS_REC | MsFlags::MS_PRIVATE,
            None::<&str>,
        )?;
        mount(
            Some("run"),
            "/run",
            Some("tmpfs"),
            MsFlags::empty(),
            None::<&str>,
        )?;
        mount(
            None::<&str>,
            "/run",
            None::<&str>,
            MsFlags::MS_SHARED,
            None::<&str>,
        )?;
        work()
    });
    done.unwrap();
}

fn run(program: &str, args: &[&str]) {
    let status = programs::command(&programs::find(program).unwrap())
        .args(args)
        .status()
        .unwrap();
    assert!(status.success(), "{program} {args:?}");
}

/// Returns the mounts of network namespaces with one of those names that the calling thread sees.
fn mounted(names: &[&str]) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/thread-self/mountinfo").unwrap();
    let is_namespace = |line: &&str| line.contains(" nsfs ");
    let paths = mounts
        .lines()
        .filter(is_namespace)
        .filter_map(|line| line.split(' ').nth(4));
    paths
        .filter(|path| names.iter().any(|name| path.ends_with(name)))
        .map(str::to_owned)
        .collect()
}

/// Makes a handle as agents of before did.
fn create_shared(name: &str) -> io::Result<()> {
    fs::create_dir_all(SHARED_DIR)?;
    let path = Path::new(SHARED_DIR).join(name);
    File::create_new(&path)?;
    on_own_thread(move || {
        unshare(CloneFlags::CLONE_NEWNET)?;
        Ok(mount(
            Some("/proc/thread-self/ns/net"),
            &path,
            None::<&str>,
            MsFlags::MS_BIND,
            None::<&str>,
        )?)
    })
}

#[test]
fn ip_netns_add_hides_no_handle() {
    with_own_run(|| {
        create("before")?;
        run("ip", &["netns", "add", "theirs"]);
        create("after")?;
        assert_eq!(
            enter("before", || fs::read_to_string("/proc/thread-self/net/dev"))?
                .lines()
                .count(),
            3
        );
        for name in ["before", "after"] {
            remove(name)?;
            assert!(!exists(name), "{name}");
        }
        assert_eq!(list("")?, ["theirs"]);
        assert_eq!(mounted(&["/before", "/after"]), [""; 0]);
        run("ip", &["netns", "del", "theirs"]);
        Ok(())
    });
}

#[test]
fn shared_handles_below_mount_are_removed() {
    with_own_run(|| {
        create_shared("old")?;
        assert!(exists("old") && create("old").unwrap_err().kind() == io::ErrorKind::AlreadyExists);
        run("ip", &["netns", "add", "theirs"]);
        // CNI plugins and Podman do it once more, in a directory that is shared by now.
        run("mount", &["--rbind", SHARED_DIR, SHARED_DIR]);
        run("mount", &["--make-rshared", SHARED_DIR]);
        enter("old", || Ok(()))?;
        let busy = fs::remove_file(Path::new(SHARED_DIR).join("old")).unwrap_err();
        assert_eq!(busy.kind(), io::ErrorKind::ResourceBusy);
        remove("old")?;
        assert!(!exists("old"));
        assert_eq!(mounted(&["/old"]), [""; 0]);
        create("old")?;
        remove("old")
    });
}

/// What Docker does with `-v /run:/run:rslave`, and schroot with `--rbind`.
#[test]
fn copies_of_run_keep_no_namespace() {
    with_own_run(|| {
        create("one")?;
        create_shared("two")?;
        fs::create_dir("/run/copy")?;
        run("mount", &["--rbind", "/run", "/run/copy"]);
        run("mount", &["--make-rslave", "/run/copy"]);
        // In another mount namespace, too.
        let (ended, end) = std::sync::mpsc::channel::<()>();
        let (tell, told) = std::sync::mpsc::channel();
        let other = std::thread::spawn(move || {
            unshare(CloneFlags::CLONE_NEWNS).unwrap();
            tell.send(mounted(&["/one", "/two"])).unwrap();
            let _ = end.recv();
            mounted(&["/one", "/two"])
        });
        assert!(
            told.recv()
                .unwrap()
                .iter()
                .any(|path| path.ends_with("copy/wrenn/netns/one"))
        );
        for name in ["one", "two"] {
            remove(name)?;
            assert!(!exists(name), "{name}");
        }
        assert_eq!(mounted(&["/one", "/two"]), [""; 0]);
        drop(ended);
        assert!(
            other.join().unwrap().is_empty(),
            "the other namespace keeps one"
        );
        Ok(())
    });
}

#[test]
fn handles_are_for_root_alone() {
    with_own_run(|| {
        fs::create_dir_all("/run/wrenn")?;
        create("one")?;
        for dir in ["/run/wrenn", DIR] {
            assert_eq!(fs::metadata(dir)?.mode() & 0o777, 0o700, "{dir}");
        }
        remove("one")
    });
}
