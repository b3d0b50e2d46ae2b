//! A VM and what its guest has printed so far.

use std::path::Path;
use std::time::{Duration, Instant};

use vmm::{Exit, Vm, VmConfig};

/// Time for anything that a guest does; a boot takes 3 s alone, and much longer beside others.
const PATIENCE: Duration = Duration::from_secs(100);

/// Between two looks at the console: short of the time in which a counting guest would fill it.
const LOOK: Duration = Duration::from_millis(25);

/// Long enough for a running guest to print several numbers.
const STANDSTILL: Duration = Duration::from_millis(400);

pub struct Machine {
    pub vm: Box<dyn Vm>,
    pub config: VmConfig,
    pub text: String,
}

impl Machine {
    pub fn new(vm: Box<dyn Vm>, config: VmConfig) -> Self {
        Self {
            vm,
            config,
            text: String::new(),
        }
    }

    /// Adds what the guest has printed since.
    pub async fn read(&mut self) -> usize {
        let output = self.vm.console().await;
        self.text.push_str(&String::from_utf8_lossy(&output));
        output.len()
    }

    /// Waits until the guest has printed something that satisfies `wanted`.
    pub async fn until(&mut self, what: &str, wanted: impl Fn(&str) -> bool) {
        let deadline = Instant::now() + PATIENCE;
        while !wanted(&self.text) {
            assert!(
                Instant::now() < deadline,
                "never saw {what} in:\n{}",
                self.text
            );
            tokio::time::sleep(LOOK).await;
            self.read().await;
        }
    }

    pub async fn until_printed(&mut self, wanted: &str) {
        self.until(wanted, |text| text.contains(wanted)).await;
    }

    /// Waits until the guest has counted five numbers further.
    pub async fn count_on(&mut self) {
        let goal = self.counted().map_or(4, |last| last + 5);
        self.until("the next numbers", |text| {
            counts(text).last().is_some_and(|last| *last >= goal)
        })
        .await;
    }

    /// The last number, if any was printed.
    pub fn counted(&self) -> Option<u64> {
        counts(&self.text).last().copied()
    }

    /// Fails when the guest prints anything; its vCPUs have to be stopped.
    pub async fn stands_still(&mut self) {
        self.read().await;
        tokio::time::sleep(STANDSTILL).await;
        assert_eq!(
            self.read().await,
            0,
            "a paused guest printed:\n{}",
            self.text
        );
    }

    pub async fn pause(&mut self) {
        self.vm.pause().await.expect("it can be paused");
        self.stands_still().await;
    }

    /// Resumes it and waits for the next numbers, which have to follow the last ones.
    pub async fn goes_on(&mut self) {
        self.vm.resume().await.expect("it can be resumed");
        self.count_on().await;
        assert_gapless(&self.text);
    }

    /// The same for a machine whose numbers before were printed by `before`.
    pub async fn goes_on_after(&mut self, before: &str) {
        before.clone_into(&mut self.text);
        self.goes_on().await;
    }

    pub async fn snapshot(&self, dir: &Path) {
        self.vm
            .snapshot(dir, vmm::AfterSnapshot::Resume)
            .await
            .expect("a snapshot of the paused VM");
    }

    pub async fn kill(&self) {
        self.vm.kill().await.expect("it can be killed");
    }

    /// The end, with all that the guest printed up to it.
    pub async fn end(&mut self) -> Exit {
        let exit = tokio::time::timeout(PATIENCE, self.vm.wait()).await;
        self.read().await;
        exit.unwrap_or_else(|_| panic!("it does not end; it printed:\n{}", self.text))
    }
}

/// The numbers of all whole lines `count N`.
fn counts(text: &str) -> Vec<u64> {
    let whole = text.rfind('\n').map_or("", |end| &text[..end]);
    let mut numbers: Vec<u64> = Vec::new();
    for line in whole.lines() {
        let readings = readings(line.trim());
        let next = numbers.last().map(|last| last + 1);
        let number = next
            .filter(|next| readings.contains(next))
            .or(readings.first().copied());
        numbers.extend(number);
    }
    numbers
}

/// What a line may stand for, as it is or with one letter less where the same came twice: a
/// processor that is stopped within an output instruction, which is complete only when it runs
/// again (KVM API, `KVM_EXIT_IO`), does it once more after a restore.
fn readings(line: &str) -> Vec<u64> {
    if !line.is_ascii() {
        return Vec::new();
    }
    let twice = line
        .as_bytes()
        .windows(2)
        .enumerate()
        .filter(|(_, pair)| pair[0] == pair[1])
        .map(|(at, _)| at);
    let shorter = twice.map(|at| format!("{}{}", &line[..at], &line[at + 1..]));
    let lines = std::iter::once(line.to_owned()).chain(shorter);
    lines
        .filter_map(|line| line.strip_prefix("count ")?.parse().ok())
        .collect()
}

fn assert_gapless(text: &str) {
    let numbers = counts(text);
    let follows = |pair: &[u64]| pair[1] == pair[0] + 1;
    assert!(
        numbers.windows(2).all(follows),
        "numbers are missing or came twice:\n{text}"
    );
}
