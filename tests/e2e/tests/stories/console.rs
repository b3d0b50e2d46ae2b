//! The test console in a real browser, with real sandboxes.

#[expect(dead_code, reason = "the control plane's own tests use the rest of it")]
#[path = "../../../../crates/control/tests/suite/browser/devtools.rs"]
mod devtools;

use std::time::{Duration, Instant};

use devtools::{Browser, Tab};
use e2e::Platform;
use serde_json::{Value, json};

/// Time for one step. Emulated guests beside others are slow.
const PATIENCE: Duration = Duration::from_secs(180);
/// Most strokes of Tab to anything on the page.
const TABS: usize = 40;

const CREATE: &str = "document.querySelector('#create-form button[type=submit]')";
const COMMAND: &str = "document.querySelector('section:not([hidden]) [name=cmd]')";
const OUTPUT: &str = "document.querySelector('section:not([hidden]) .output')";
const TERMINAL: &str = "document.querySelector('section:not([hidden]) .xterm-rows')";

/// The console, open in a tab.
struct Console {
    browser: Browser,
    tab: Tab,
}

impl Console {
    /// Opens an address, and goes on when `condition` holds.
    async fn open(url: &str, condition: &str) -> Self {
        let mut browser = Browser::start(&["--window-size=1280,900"]).await;
        let tab = browser.open_tab().await;
        for domain in ["Log.enable", "Runtime.enable"] {
            browser.call(Some(&tab), domain, json!({})).await;
        }
        browser.go(&tab, url).await;
        let mut console = Self { browser, tab };
        console.until(condition).await;
        console
    }

    async fn evaluate(&mut self, expression: &str) -> Value {
        self.browser.evaluate(&self.tab, expression).await
    }

    async fn text(&mut self, element: &str) -> String {
        let text = self.evaluate(&format!("{element}?.textContent")).await;
        text.as_str().unwrap_or_default().to_owned()
    }

    /// Waits until an expression is true.
    async fn until(&mut self, condition: &str) {
        let deadline = Instant::now() + PATIENCE;
        while self.evaluate(&format!("Boolean({condition})")).await != true {
            if Instant::now() > deadline {
                let page = self.text("document.body").await;
                panic!("waited in vain for {condition}: {page}");
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
    }

    /// Presses and releases a key, with Shift, Control and the like in `modifiers` (8, 2).
    async fn press(&mut self, key: &str, modifiers: u32) {
        let code = match key {
            "Tab" => 9,
            "Enter" => 13,
            "Escape" => 27,
            "ArrowRight" => 39,
            other => u32::from(other.as_bytes()[0]),
        };
        let mut event = json!({
            "type": "keyDown", "key": key, "windowsVirtualKeyCode": code, "modifiers": modifiers,
            "code": if key.len() == 1 { format!("Key{key}") } else { key.to_owned() },
        });
        if key == "Enter" {
            event["text"] = json!("\r");
        }
        for kind in ["keyDown", "keyUp"] {
            event["type"] = json!(kind);
            let method = "Input.dispatchKeyEvent";
            self.browser
                .call(Some(&self.tab), method, event.clone())
                .await;
        }
    }

    async fn write(&mut self, text: &str) {
        let text = json!({ "text": text });
        let method = "Input.insertText";
        self.browser.call(Some(&self.tab), method, text).await;
    }

    /// Presses Tab until `element` has the focus.
    async fn tab_to(&mut self, element: &str) {
        let has_focus = format!("document.activeElement === {element}");
        for _ in 0..TABS {
            if self.evaluate(&has_focus).await == true {
                return;
            }
            self.press("Tab", 0).await;
        }
        panic!("{TABS} strokes of Tab do not reach {element}");
    }

    /// Runs a command, and returns what it wrote.
    async fn run(&mut self, line: &str) -> String {
        self.evaluate("[...document.querySelectorAll('section:not([hidden]) form button')].find(b => b.textContent === 'Clear').click()").await;
        self.evaluate(&format!("{COMMAND}.focus()")).await;
        self.write(line).await;
        self.press("Enter", 0).await;
        self.until(&format!("/ s\\n$/.test({OUTPUT}.textContent)"))
            .await;
        self.text(OUTPUT).await
    }

    /// Clicks the first button of a name.
    async fn click(&mut self, within: &str, name: &str) {
        let find = format!(
            "[...document.querySelectorAll({:?})].find(b => b.textContent === {name:?} && b.checkVisibility())",
            format!("{within} button")
        );
        self.until(&find).await;
        self.evaluate(&format!("{find}.click()")).await;
    }

    /// Scripts that failed and everything that the policy refused, so far.
    fn complaints(&self) -> Vec<&Value> {
        let is_complaint = |event: &&Value| match event["method"].as_str() {
            Some("Runtime.exceptionThrown") => true,
            Some("Log.entryAdded") => event["params"]["entry"]["source"] != "network",
            _ => false,
        };
        self.browser.events.iter().filter(is_complaint).collect()
    }
}

/// The condition that so many sandboxes are in a state.
fn count_is(status: &str, count: usize) -> String {
    format!(
        "document.querySelectorAll('#sandbox-rows .badge[data-status={status}]').length === {count}"
    )
}

fn runtime() -> tokio::runtime::Runtime {
    tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .unwrap()
}

#[test]
fn console_drives_whole_life() {
    let platform = Platform::start();
    let address = platform.cli().run(["console"]).succeeded().text();
    runtime().block_on(async {
        let ready = "document.querySelector('#create-template option')";
        let mut console = Console::open(&address, ready).await;
        key_leaves_address(&mut console, &platform).await;
        create_by_keyboard(&mut console).await;
        commands_show_hostile_text(&mut console).await;
        pause_and_resume(&mut console).await;
        terminal_runs_shell(&mut console).await;
        snapshot_makes_another(&mut console).await;
        delete_by_keyboard(&mut console).await;
        assert_eq!(console.complaints(), Vec::<&Value>::new());
        forgotten_key_is_gone(&mut console).await;
    });
    platform.finish();
}

async fn key_leaves_address(console: &mut Console, platform: &Platform) {
    let page = format!("{}/test", platform.url());
    assert_eq!(console.evaluate("location.href").await, page);
    let stored = console.evaluate("JSON.stringify(sessionStorage)").await;
    assert_eq!(stored, json!({ "wrenn-key": platform.key() }).to_string());
    let elsewhere = "localStorage.length + document.cookie.length";
    assert_eq!(console.evaluate(elsewhere).await, 0);
    let shown = console.text("document.body").await;
    assert!(!shown.contains(&platform.key()));
}

async fn create_by_keyboard(console: &mut Console) {
    let memory = "document.querySelector('[name=memory_mb]')";
    console.tab_to(memory).await;
    console.write("7").await;
    console.tab_to(CREATE).await;
    console.press("Enter", 0).await;
    console.until("document.querySelector('.error-text')").await;
    assert_eq!(
        console
            .evaluate(&format!("document.activeElement === {memory}"))
            .await,
        true
    );
    let wrong = console
        .text(&format!(
            "{memory}.closest('.field').querySelector('.error-text')"
        ))
        .await;
    assert!(
        wrong.starts_with("Must be a whole number from 128 to "),
        "{wrong}"
    );
    console.evaluate(&format!("{memory}.select()")).await;
    console.write("256").await;
    console.tab_to(CREATE).await;
    console.press("Enter", 0).await;
    console.until(&count_is("running", 1)).await;
    // Its workspace opens, ready for a command.
    console
        .until(&format!("document.activeElement === {COMMAND}"))
        .await;
    console.write("echo out; echo err >&2; exit 3").await;
    console.press("Enter", 0).await;
    console
        .until(&format!("/exit code 3/.test({OUTPUT}.textContent)"))
        .await;
    for (stream, right) in [("stdout", "out\n"), ("stderr", "err\n")] {
        assert_eq!(
            console
                .text(&format!("{OUTPUT}.querySelector('.{stream}')"))
                .await,
            right
        );
    }
}

async fn commands_show_hostile_text(console: &mut Console) {
    let markup = "<img src=x onerror=window.pwned=1>";
    let output = console
        .run(&format!(
            "cd /tmp; touch '{markup}'; ls; printf '\\033[31m\\342\\200\\256'; cat '{markup}/x'"
        ))
        .await;
    assert!(output.contains(&format!("\n{markup}\n")), "{output}");
    assert!(output.contains("\\u{1b}[31m\\u{202e}"), "{output}");
    console
        .evaluate(&format!(
            "document.querySelector('[name=cwd]').value = '/{markup}'"
        ))
        .await;
    let output = console.run("true").await;
    assert!(
        output.contains(markup) && !output.contains("exit code 0"),
        "{output}"
    );
    console
        .evaluate("document.querySelector('[name=cwd]').value = ''")
        .await;
    let shown = console.text("document.querySelector('#activity')").await;
    assert!(shown.contains(markup), "{shown}");
    let made = "document.images.length + ':' + window.pwned";
    assert_eq!(console.evaluate(made).await, "1:undefined");
}

async fn pause_and_resume(console: &mut Console) {
    // A signal ends a command that would run on.
    console.evaluate(&format!("{COMMAND}.focus()")).await;
    console.write("echo begun; sleep 1000").await;
    console.press("Enter", 0).await;
    console
        .until(&format!("/\\nbegun\\n/.test({OUTPUT}.textContent)"))
        .await;
    // The skip link and Back leave it running.
    console
        .evaluate("document.querySelector('.skip').click()")
        .await;
    console.until("location.hash === '#main'").await;
    console.evaluate("history.back()").await;
    console.until("location.hash === ''").await;
    console.click("section:not([hidden])", "Stop").await;
    console
        .until(&format!("/exit code 143/.test({OUTPUT}.textContent)"))
        .await;

    let row = "document.querySelector('#sandbox-rows tr')";
    console.evaluate(&format!("window.row = {row}")).await;
    console.click("#sandbox-rows", "Pause").await;
    console.until(&count_is("paused", 1)).await;
    console.click("#sandbox-rows", "Resume").await;
    console.until(&count_is("running", 1)).await;
    // Refreshes keep elements, and with them focus and selection.
    assert_eq!(
        console.evaluate(&format!("window.row === {row}")).await,
        true
    );
}

async fn terminal_runs_shell(console: &mut Console) {
    let tab = "document.querySelector('[role=tab][data-name=Command]')";
    console.evaluate(&format!("{tab}.focus()")).await;
    console.press("ArrowRight", 0).await;
    // A double click opens one shell.
    console.evaluate("window.sockets = 0; window.Plain = WebSocket; window.WebSocket = class extends Plain { constructor(...all) { super(...all); sockets += 1; window.last = this; } }").await;
    let open = "[...document.querySelectorAll('[role=tabpanel]:not([hidden]) button')].find(b => b.textContent === 'Open terminal')";
    console.until(open).await;
    console
        .evaluate(&format!(
            "window.opens = {open}; opens.click(); opens.click()"
        ))
        .await;
    console
        .until(&format!("/[$#] /.test({TERMINAL}?.textContent)"))
        .await;
    assert_eq!(console.evaluate("window.sockets").await, 1);
    console
        .write("echo $((6 * 7))-$(stty size | tr ' ' x)")
        .await;
    console.press("Enter", 0).await;
    console
        .until(&format!("/42-\\d+x\\d+/.test({TERMINAL}.textContent)"))
        .await;
    let before = console.text(TERMINAL).await;
    let screen = "document.querySelector('section:not([hidden]) .xterm-screen')";
    let wide = format!("window.wide = {screen}.clientWidth");
    console.evaluate(&wide).await;
    console
        .browser
        .call(
            Some(&console.tab),
            "Emulation.setDeviceMetricsOverride",
            json!({
                "width": 700, "height": 900, "deviceScaleFactor": 1, "mobile": false,
            }),
        )
        .await;
    console
        .until(&format!("{screen}.clientWidth < window.wide"))
        .await;
    console
        .write("clear; echo new-$(stty size | tr ' ' x)")
        .await;
    console.press("Enter", 0).await;
    console
        .until(&format!("/new-\\d+x\\d+/.test({TERMINAL}.textContent)"))
        .await;
    let after = console.text(TERMINAL).await;
    let columns = |text: &str, mark: &str| {
        let digits = text
            .split(mark)
            .last()
            .unwrap_or_default()
            .split('x')
            .nth(1);
        let digits = digits
            .unwrap_or_default()
            .chars()
            .take_while(char::is_ascii_digit);
        digits.collect::<String>().parse::<u32>().unwrap()
    };
    assert!(
        columns(&after, "new-") < columns(&before, "42-"),
        "{before}\n{after}"
    );
    terminal_outlives_page(console).await;
    console.write("exit 5").await;
    console.press("Enter", 0).await;
    console.until("/exit code 5/.test(document.querySelector('section:not([hidden]) .cover')?.textContent)").await;
}

/// The same shell goes on over a lost connection, and over a reload of the page.
async fn terminal_outlives_page(console: &mut Console) {
    let drawn = |text: &str| format!("{TERMINAL}?.textContent.includes('{text}')");
    console.write("clear; kept=same; echo is-$kept").await;
    console.press("Enter", 0).await;
    // Input that is on its way when a connection ends is lost.
    console.until(&drawn("is-same")).await;
    console.evaluate("window.last.close()").await;
    console
        .until("window.sockets > 1 && window.last.readyState === 1")
        .await;
    console.write("echo $kept-connection").await;
    console.press("Enter", 0).await;
    console.until(&drawn("same-connection")).await;
    console.evaluate("window.isOld = true").await;
    let tab = &console.tab;
    console
        .browser
        .load_page(tab, "Page.reload", json!({}))
        .await;
    console.until("!window.isOld && document.body").await;
    console.until(&drawn("same-connection")).await;
    let input = "document.querySelector('section:not([hidden]) .xterm-helper-textarea')";
    console.evaluate(&format!("{input}.focus()")).await;
    console.write("echo $kept-page").await;
    console.press("Enter", 0).await;
    console.until(&drawn("same-page")).await;
}

async fn snapshot_makes_another(console: &mut Console) {
    console.click("#sandbox-rows", "Snapshot").await;
    console.write("Bad Name").await;
    console.press("Enter", 0).await;
    console
        .until("document.querySelector('dialog .field .error-text')")
        .await;
    console
        .evaluate("document.querySelector('dialog [name=name]').select()")
        .await;
    console.write("saved").await;
    console.press("Enter", 0).await;
    let item = "[...document.querySelectorAll('#templates li')].find(li => li.textContent.startsWith('saved'))";
    console.until(item).await;
    console
        .until("!document.querySelector('dialog[open]')")
        .await;
    console
        .evaluate(&format!("{item}.querySelector('button').click()"))
        .await;
    assert_eq!(
        console
            .evaluate("document.querySelector('[name=memory_mb]').value")
            .await,
        "256"
    );
    console.evaluate(&format!("{CREATE}.click()")).await;
    console.until(&count_is("running", 2)).await;
}

async fn delete_by_keyboard(console: &mut Console) {
    let delete = "document.querySelector('#sandbox-rows .danger')";
    let dialog = "document.querySelector('dialog[open]')";
    console.evaluate(&format!("{delete}.focus()")).await;
    console.press("Enter", 0).await;
    console.until(dialog).await;
    console.press("Escape", 0).await;
    console.until(&format!("!{dialog}")).await;
    assert_eq!(
        console
            .evaluate(&format!("document.activeElement === {delete}"))
            .await,
        true
    );
    for left in [1, 0] {
        console.evaluate(&format!("{delete}.focus()")).await;
        console.press("Enter", 0).await;
        console.until(dialog).await;
        console
            .tab_to("document.querySelector('dialog .danger')")
            .await;
        console.press("Enter", 0).await;
        let rows = "document.querySelectorAll('#sandbox-rows tr').length";
        // The dialog stays until its refresh has ended; the rows may go before.
        console
            .until(&format!("{rows} === {left} && !{dialog}"))
            .await;
    }
    let saved = "document.querySelector('#templates [aria-label=\"Delete the snapshot saved\"]')";
    console.evaluate(&format!("{saved}.click()")).await;
    console.click("dialog", "Delete").await;
    console.until(&format!("!{saved}")).await;
}

async fn forgotten_key_is_gone(console: &mut Console) {
    console.click("header", "Forget key").await;
    assert_eq!(console.evaluate("sessionStorage.length").await, 0);
    let input = "document.querySelector('#key-input')";
    console
        .until(&format!("document.activeElement === {input}"))
        .await;
    for (typed, said) in [
        ("wrn_", "40 hexadecimal"),
        (&*format!("wrn_{}", "0".repeat(40)), "not known"),
    ] {
        console
            .evaluate(&format!("{input}.value = ''; {input}.focus()"))
            .await;
        console.write(typed).await;
        console.press("Enter", 0).await;
        let told = "document.querySelector('#key-form .error-text')?.textContent";
        console.until(&format!("{told}?.includes({said:?})")).await;
    }
    assert_eq!(console.evaluate("sessionStorage.length").await, 0);
}
