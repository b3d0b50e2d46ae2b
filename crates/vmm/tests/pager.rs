//! Memory in layers, served by a real pager in its jail to a process that plays the VMM, with a
//! real userfaultfd.
//!
//! The VMM is this program once more ([`plays_a_vmm`]): it maps memory, hands its faults over as
//! Firecracker does, and does what it is told on standard input, one line each. Needs root.

use std::fs::{self, File};
use std::io::{BufRead, BufReader, Read, Write};
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Child, ChildStdin, ChildStdout, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use linux::cgroup::DiskLimits;
use linux::descriptors;
use linux::process::Process;
use linux::program_file::ProgramFile;
use linux::uffd::Region;
use proptest::prelude::*;
use proptest::test_runner::TestRunner;
use stdx::error::chain;
use tempfile::TempDir;
use vmm::pager::{self, Pager};
use vmm::{Disk, DiskFormat, Jail, VmConfig};

const MB: usize = 4;
const BYTES: usize = MB << 20;
const PAGES: usize = BYTES / 4096;
const SOCKET: &str = "VMM_TEST_SOCKET";
const PATIENCE: Duration = Duration::from_secs(60);

/// The VMM; as a test it does nothing.
#[test]
fn plays_a_vmm() {
    let Some(socket) = std::env::var_os(SOCKET) else {
        return;
    };
    let whole = Region::new(BYTES).expect("userfaultfd");
    let pager = UnixStream::connect(socket).expect("the pager listens");
    let describe = |offset: usize, size: usize| {
        serde_json::json!({"base_host_virt_addr": whole.address() + offset as u64, "size": size, "offset": offset,
            "page_size": 4096, "page_size_kib": 4096})
    };
    // Told as two regions, as the memory of a large guest is.
    let message = serde_json::json!([
        describe(0, BYTES / 4),
        describe(BYTES / 4, BYTES - BYTES / 4)
    ])
    .to_string();
    descriptors::send(&pager, message.as_bytes(), &[whole.faults()]).expect("the pager takes it");
    for line in std::io::stdin().lines().map_while(Result::ok) {
        let words: Vec<&str> = line.split(' ').collect();
        let number = |at: usize| words[at].parse::<usize>().expect("a number");
        let answer = match words[0] {
            "dump" => {
                fs::write(words[1], dump(&whole, number(2))).expect("a file");
                "done".to_owned()
            }
            "touch" => {
                whole.read(number(1), &mut [0]);
                "done".to_owned()
            }
            "write" => {
                whole.write(
                    number(1),
                    &vec![u8::try_from(number(3)).expect("a byte"); number(2)],
                );
                "done".to_owned()
            }
            "discard" => {
                whole.discard(number(1), number(2)).expect("it may go");
                "done".to_owned()
            }
            "present" => (0..PAGES)
                .filter(|page| whole.is_present(page * 4096).expect("pagemap"))
                .count()
                .to_string(),
            other => panic!("what is {other}?"),
        };
        println!("\nanswer {answer}");
    }
}

/// All of it, read by several threads from different ends at once.
fn dump(memory: &Region, threads: usize) -> Vec<u8> {
    let read = |thread: usize| {
        let mut all = vec![0; BYTES];
        for number in 0..PAGES {
            let page = (number * 37 + thread * PAGES / threads) % PAGES;
            memory.read(page * 4096, &mut all[page * 4096..(page + 1) * 4096]);
        }
        all
    };
    let all: Vec<Vec<u8>> = std::thread::scope(|scope| {
        let running: Vec<_> = (0..threads)
            .map(|thread| scope.spawn(move || read(thread)))
            .collect();
        running
            .into_iter()
            .map(|thread| thread.join().expect("it reads"))
            .collect()
    });
    assert!(
        all.windows(2).all(|pair| pair[0] == pair[1]),
        "threads read different pages"
    );
    all.into_iter().next().expect("one thread at least")
}

/// A snapshot in layers, and what it is of.
struct Layered {
    dir: TempDir,
    model: Vec<u8>,
}

/// A stretch of pages filled with a byte.
type Fill = (usize, usize, u8);

/// A base and a difference for each generation, in the form that `vmm/src/diff/mod.rs` documents.
fn layered(base: &[Fill], generations: &[Vec<Fill>]) -> Layered {
    let dir = tempfile::tempdir().expect("a directory");
    let mut model = vec![0; BYTES];
    let file = File::create(dir.path().join("memory.base")).expect("a file");
    file.set_len(BYTES as u64).expect("a length");
    for &(page, count, byte) in base {
        let range = page * 4096..(page + count).min(PAGES) * 4096;
        model[range.clone()].fill(byte);
        file.write_all_at(&model[range.clone()], range.start as u64)
            .expect("it is written");
    }
    let mut seals = Vec::new();
    for (number, fills) in (1..).zip(generations) {
        let mut written = vec![false; PAGES];
        for &(page, count, byte) in fills {
            let pages = page..(page + count).min(PAGES);
            model[pages.start * 4096..pages.end * 4096].fill(byte);
            written[pages].fill(true);
        }
        let pages: Vec<usize> = (0..PAGES).filter(|page| written[*page]).collect();
        let mut content = b"WRENNDF1".to_vec();
        for word in [BYTES, pages.len()]
            .into_iter()
            .chain(pages.iter().flat_map(|page| [page * 4096, 4096]))
        {
            content.extend((word as u64).to_le_bytes());
        }
        content.resize(content.len().next_multiple_of(4096), 0);
        pages
            .iter()
            .for_each(|page| content.extend(&model[page * 4096..(page + 1) * 4096]));
        let name = if number == 1 {
            "memory.diff".to_owned()
        } else {
            format!("memory.diff.{number}")
        };
        fs::write(dir.path().join(name), &content).expect("it is written");
        seals.push(serde_json::json!({"bytes": content.len(), "crc32": crc32fast::hash(&content)}));
    }
    let manifest = serde_json::json!({"memory": {"diff": seals}, "memory_mb": MB}).to_string();
    fs::write(dir.path().join("snapshot.json"), manifest).expect("it is written");
    Layered { dir, model }
}

fn config(dir: &Path) -> VmConfig {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let user =
        2_055_000_000 + std::process::id() % 10_000 * 100 + NEXT.fetch_add(1, Ordering::Relaxed);
    fs::create_dir_all(dir.join("run")).expect("a directory");
    VmConfig {
        dir: dir.into(),
        name: "vm".into(),
        vcpus: 1,
        memory_mb: MB as u32,
        kernel: "/k".into(),
        initramfs: "/i".into(),
        kernel_args: String::new(),
        disk: Disk {
            path: "/d".into(),
            format: DiskFormat::Raw,
            base: None,
            size_bytes: 4 << 20,
        },
        modules: None,
        net: None,
        jail: Some(Jail {
            uid: user,
            gid: user,
            cgroup: None,
            disk: DiskLimits::default(),
        }),
    }
}

fn pager_program() -> ProgramFile {
    ProgramFile::open(Path::new(env!("CARGO_BIN_EXE_vmm-pager"))).expect("it is built")
}

/// A VMM and its pager.
struct Vm {
    child: Child,
    input: ChildStdin,
    output: BufReader<ChildStdout>,
    pager: Pager,
    dir: TempDir,
}

impl Vm {
    async fn restore(snapshot: &Path) -> Self {
        let dir = tempfile::tempdir().expect("a directory");
        let program = pager_program();
        let pager = pager::serve(&program, &config(dir.path()), snapshot)
            .await
            .expect("a pager");
        let mut child = Command::new(std::env::current_exe().expect("this program"))
            .args(["plays_a_vmm", "--exact", "--nocapture"])
            .env(SOCKET, dir.path().join("run/pager.sock"))
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .spawn()
            .expect("this program");
        let (input, output) = (
            child.stdin.take().expect("a pipe"),
            child.stdout.take().expect("a pipe"),
        );
        Self {
            child,
            input,
            output: BufReader::new(output),
            pager,
            dir,
        }
    }

    fn order(&mut self, order: &str) {
        writeln!(self.input, "{order}").expect("the VMM listens");
    }

    fn answer(&mut self) -> String {
        let mut lines = self.output.by_ref().lines().map_while(Result::ok);
        lines
            .find_map(|line| line.strip_prefix("answer ").map(str::to_owned))
            .expect("the VMM answers")
    }

    fn ask(&mut self, order: &str) -> String {
        self.order(order);
        self.answer()
    }

    fn dump(&mut self, threads: usize) -> Vec<u8> {
        let path = self.dir.path().join("dump");
        self.ask(&format!("dump {} {threads}", path.display()));
        fs::read(path).expect("the dump")
    }

    fn assert_is(&mut self, model: &[u8], threads: usize) {
        let memory = self.dump(threads);
        let pages = memory.chunks(4096).zip(model.chunks(4096)).enumerate();
        let differ: Vec<usize> = pages
            .filter(|(_, (a, b))| a != b)
            .map(|(number, _)| number)
            .collect();
        assert!(
            memory.len() == model.len() && differ.is_empty(),
            "pages differ: {differ:?}"
        );
    }

    fn process(&self) -> Process {
        let identity = self.pager.identity().expect("it lives");
        Process::adopt(identity).expect("/proc").expect("it lives")
    }

    /// Ends the VMM, and sees that its pager ends with it.
    fn end(mut self) {
        let pager = self.process();
        self.child.kill().expect("it can be killed");
        self.child.wait().expect("it ends");
        assert!(
            pager.wait(PATIENCE).expect("it can be watched").is_some(),
            "the pager outlives its VMM"
        );
        // The pipe is still held open by what knows the pager.
        let mut said = linux::fifo::open(&self.dir.path().join("pager.stderr")).expect("a pipe");
        let mut words = [0; 4096];
        let nothing = said
            .read(&mut words)
            .map(|length| String::from_utf8_lossy(&words[..length]).into_owned());
        assert_eq!(
            nothing.expect_err("it has complained").kind(),
            std::io::ErrorKind::WouldBlock
        );
    }
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .expect("a runtime")
}

fn fills() -> impl Strategy<Value = Vec<Fill>> {
    let byte = prop_oneof![Just(0), any::<u8>()];
    prop::collection::vec((0..PAGES, 1..80_usize, byte), 0..12)
}

#[test]
fn every_page_is_right_over_generations() {
    let runtime = runtime();
    let mut runner = TestRunner::new(ProptestConfig {
        cases: 8,
        ..ProptestConfig::default()
    });
    let histories = (fills(), prop::collection::vec(fills(), 1..5), fills());
    let checked = runner.run(&histories, |(base, generations, after)| {
        let mut layered = layered(&base, &generations);
        let mut vm = runtime.block_on(Vm::restore(layered.dir.path()));
        // Some pages are written before anybody has read them, and some given back, which are
        // zeroes then.
        for &(page, count, byte) in &after {
            let (at, length) = (page * 4096, ((page + count).min(PAGES) - page) * 4096);
            match byte {
                0 => vm.ask(&format!("discard {at} {length}")),
                _ => vm.ask(&format!("write {at} {length} {byte}")),
            };
            layered.model[at..at + length].fill(byte);
        }
        vm.assert_is(&layered.model, 1);
        vm.end();
        Ok(())
    });
    checked.unwrap_or_else(|error| panic!("{error}"));
}

#[test]
fn many_threads_touch_everything_at_once() {
    let runtime = runtime();
    let base: Vec<Fill> = (0..PAGES / 8)
        .map(|number| (number * 8, 5, u8::try_from(number % 251).unwrap_or(0)))
        .collect();
    let diff: Vec<Fill> = (0..PAGES / 16)
        .map(|number| (number * 16 + 3, 4, 255))
        .collect();
    let layered = layered(&base, &[diff]);
    let mut vm = runtime.block_on(Vm::restore(layered.dir.path()));
    vm.assert_is(&layered.model, 8);
    assert_eq!(vm.ask("present"), PAGES.to_string());
    vm.end();
}

#[test]
fn working_set_is_prefetched() {
    let runtime = runtime();
    let layered = layered(&[(0, PAGES, 9)], &[vec![(100, 50, 7)]]);
    let kept = layered.dir.path().join("memory.working-set");
    let mut first = runtime.block_on(Vm::restore(layered.dir.path()));
    for page in [3, 120, 700] {
        first.ask(&format!("touch {}", page * 4096));
    }
    // Each brings the eight pages that it is one of, as far as they come from one file, and no
    // more.
    until("pages around", || first.ask("present") == "24");
    until("a working set", || kept.exists());
    first.end();
    let mut second = runtime.block_on(Vm::restore(layered.dir.path()));
    until("pages that nobody asked for", || {
        second.ask("present") == "24"
    });
    second.assert_is(&layered.model, 2);
    second.end();
    // Damaged, it is of no use, and does no harm.
    fs::write(&kept, b"WRENNWS1 and then nonsense").expect("it can be written");
    let mut third = runtime.block_on(Vm::restore(layered.dir.path()));
    assert_eq!(third.ask("present"), "0");
    third.assert_is(&layered.model, 2);
    third.end();
}

/// Looks again until it is so.
fn until(what: &str, mut is_so: impl FnMut() -> bool) {
    let deadline = Instant::now() + PATIENCE;
    while !is_so() {
        assert!(Instant::now() < deadline, "no {what}");
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[test]
fn a_pager_that_dies_is_noticed() {
    let runtime = runtime();
    let layered = layered(&[(0, PAGES, 9)], &[vec![(100, 50, 7)]]);
    let mut vm = runtime.block_on(Vm::restore(layered.dir.path()));
    vm.ask("touch 0");
    vm.process().kill().expect("it can be killed");
    let noticed = async { tokio::time::timeout(PATIENCE, vm.pager.wait_until_ended()).await };
    let why = runtime.block_on(noticed).expect("it is noticed");
    assert!(why.contains("signal 9"), "{why}");
    // The guest can do nothing but wait.
    vm.order(&format!("touch {}", 500 * 4096));
    std::thread::sleep(Duration::from_millis(300));
    assert!(vm.child.try_wait().expect("it is our child").is_none());
    vm.child.kill().expect("it can be killed");
    vm.child.wait().expect("it ends");
}

#[test]
fn abandoned_pager_ends() {
    let runtime = runtime();
    let layered = layered(&[(0, 5, 9)], &[vec![(100, 50, 7)]]);
    let dir = tempfile::tempdir().expect("a directory");
    let program = pager_program();
    let pager = runtime
        .block_on(pager::serve(
            &program,
            &config(dir.path()),
            layered.dir.path(),
        ))
        .expect("a pager");
    let process = Process::adopt(pager.identity().expect("it lives"))
        .expect("/proc")
        .expect("it lives");
    // As when this program dies: nobody holds the other end of its standard input.
    drop(runtime);
    assert!(
        process.wait(PATIENCE).expect("it can be watched").is_some(),
        "it waits for nobody"
    );
}

#[test]
fn damage_is_told_before_anything_runs() {
    let runtime = runtime();
    let layered = layered(&[(0, 5, 9)], &[vec![(100, 50, 7)], vec![(110, 5, 8)]]);
    let path = layered.dir.path().join("memory.diff.2");
    let good = fs::read(&path).expect("the difference");
    let restore = |content: &[u8]| {
        fs::write(&path, content).expect("it can be written");
        let dir = tempfile::tempdir().expect("a directory");
        let program = pager_program();
        runtime
            .block_on(pager::serve(
                &program,
                &config(dir.path()),
                layered.dir.path(),
            ))
            .expect_err("it is damaged")
    };
    for at in [0, 9, 20, 30, 41, good.len() - 1] {
        let mut bad = good.clone();
        bad[at] ^= 1;
        let error = restore(&bad);
        assert!(
            matches!(&error, vmm::Error::BadSnapshot { source, .. } if chain(source).contains("checksum")),
            "{error:?}"
        );
    }
    assert!(matches!(
        restore(&good[..good.len() - 1]),
        vmm::Error::BadSnapshot { .. }
    ));
    fs::write(&path, &good).expect("it can be written");
    let mut vm = runtime.block_on(Vm::restore(layered.dir.path()));
    vm.assert_is(&layered.model, 1);
    vm.end();
}
