//! `cargo xtask browser`: the HTML reports of `slipway check` in a real browser, as a phone, a
//! screen and paper show them.

mod chromium;
mod cluster;
mod report;
#[path = "../../crates/migrate/tests/tree/mod.rs"]
mod tree;

use std::fs;
use std::path::{Path, PathBuf};
use std::process::ExitCode;

use anyhow::{Context as _, Result, ensure};
use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use clap::Args;
use serde_json::{Value, json};

use crate::build;
use crate::prerequisites::{self, Needs};
use chromium::{Chromium, Installed};
use report::Report;

/// What is wrong with a page, as the browser sees it.
const JUDGE: &str = include_str!("browser/judge.js");

/// What is shown, and where it goes.
#[derive(Debug, Args)]
pub(crate) struct Arguments {
    /// A directory for the pages, pictures of them, and the PDFs that are printed of them
    #[arg(long, value_name = "DIR")]
    pictures: Option<PathBuf>,

    /// Install missing Debian packages first
    #[arg(long, env = "CI", value_parser = clap::builder::FalseyValueParser::new())]
    install: bool,
}

/// How a page is looked at; sizes are in CSS pixels.
#[derive(Debug)]
struct View {
    name: &'static str,
    width: u32,
    height: u32,
    mobile: bool,
    media: &'static str,
    scheme: &'static str,
}

const PHONE: View = View {
    name: "phone",
    width: 360,
    height: 800,
    mobile: true,
    media: "screen",
    scheme: "light",
};

const SCREEN: View = View {
    name: "screen",
    width: 1280,
    height: 800,
    mobile: false,
    ..PHONE
};

/// Paper is what is left between the margins of A4, for somebody who prefers dark screens.
const VIEWS: &[View] = &[
    PHONE,
    View {
        name: "phone-dark",
        scheme: "dark",
        ..PHONE
    },
    SCREEN,
    View {
        name: "screen-dark",
        scheme: "dark",
        ..SCREEN
    },
    View {
        name: "paper",
        width: 680,
        height: 1009,
        media: "print",
        scheme: "dark",
        ..SCREEN
    },
];

/// What has to be said of a page on which everything is wrong, in which view.
const FAULTS: &[(&str, &str)] = &[
    ("opened", "it loads file:///mnt/elsewhere.png"),
    ("opened", "the browser says"),
    ("phone", "px wide, and the view 360"),
    ("phone", "<p> goes over the edge: \"Wider than a phone\""),
    ("phone", "<p> goes over the edge: \"Beside the page\""),
    ("phone", "<p> is cut off: \"Cut off"),
    ("phone", "text of 9px: \"Small\""),
    ("phone", "a contrast of 1.92: \"Pale\""),
    ("phone", "it does not show \"Hidden\""),
    ("phone", "a link leads nowhere: #nowhere"),
    ("phone", "px: \"Link\""),
    ("phone", "links overlap: \"Link\" and \"Link over it\""),
    ("phone", "two elements have the same id"),
    ("phone", "a heading of level 3 after 1"),
    (
        "phone",
        "it draws [[\"docker\",[\"a\"]]], and not [[\"docker\",[\"a\",\"b\"]]]",
    ),
    ("phone", "it has a script"),
    ("phone", "its Content-Security-Policy is \"\""),
    ("paper", "a contrast of 1.00: \"Small\""),
    ("printed", "it does not show \"Hidden\""),
    ("printed", "a link leads nowhere: nowhere"),
];

/// Opens all pages in all views, and says what is wrong with them.
///
/// # Errors
/// When no browser can be had or reports cannot be made.
pub(crate) fn run(arguments: &Arguments) -> Result<ExitCode> {
    prerequisites::provide(Needs::Browser, arguments.install)?;
    let installed = Installed::provide()?;
    // As the tests find it; whoever names none gets what is built now.
    let slipway = std::env::var_os("SLIPWAY_BIN").map(PathBuf::from);
    let slipway = slipway.map_or_else(build::development, Ok)?;
    let pages = tempfile::tempdir()?;
    let reports = report::make(&slipway, pages.path())?;
    let wrong = report::wrong(pages.path())?;
    let mut judge = Judge {
        browser: Chromium::start(&installed, pages.path())?,
        installed: &installed,
        pages: pages.path(),
        pictures: arguments.pictures.as_deref(),
        wrong: Vec::new(),
    };
    judge.prove(&wrong)?;
    for report in &reports {
        judge.look_at(report).with_context(|| report.name.clone())?;
    }
    for sentence in &judge.wrong {
        eprintln!("{sentence}");
    }
    let (pages, views, wrong) = (reports.len(), VIEWS.len(), judge.wrong.len());
    println!("{pages} pages in {views} views and on paper: {wrong} complaints");
    Ok(if wrong == 0 {
        ExitCode::SUCCESS
    } else {
        ExitCode::FAILURE
    })
}

struct Judge<'a> {
    browser: Chromium,
    installed: &'a Installed,
    pages: &'a Path,
    pictures: Option<&'a Path>,
    wrong: Vec<String>,
}

impl Judge<'_> {
    /// Sees to it that nothing is passed over on a page on which everything is wrong.
    fn prove(&mut self, wrong: &Report) -> Result<()> {
        self.look_at(wrong)?;
        let said = std::mem::take(&mut self.wrong);
        for (view, fault) in FAULTS {
            let begin = format!("{}, {view}: ", wrong.name);
            let seen = |sentence: &String| sentence.starts_with(&begin) && sentence.contains(fault);
            ensure!(
                said.iter().any(seen),
                "nobody says {begin}{fault}\nbut:\n{}",
                said.join("\n")
            );
        }
        Ok(())
    }

    fn look_at(&mut self, report: &Report) -> Result<()> {
        let page = format!("{}.html", report.name);
        // Where scripts are forbidden, too, nothing may be missing.
        let off = json!({ "value": true });
        self.browser
            .call("Emulation.setScriptExecutionDisabled", &off)?;
        let events = self.browser.open(&page)?;
        let said = events.iter().filter_map(|event| complaint(event, &page));
        self.note(&report.name, "opened", said.collect());
        for view in VIEWS {
            self.show(view)?;
            let expected = json!({
                "width": view.width,
                "paper": view.media == "print",
                "texts": report.texts(),
                "nodes": report.nodes(),
            });
            let verdict = self.browser.evaluate(JUDGE, &expected)?;
            let wrong = serde_json::from_value(verdict).context("the judge's verdict")?;
            self.note(&report.name, view.name, wrong);
            if self.pictures.is_some() {
                let whole = json!({ "captureBeyondViewport": true });
                let picture = self.browser.call("Page.captureScreenshot", &whole)?;
                self.keep(&format!("{}-{}.png", report.name, view.name), &picture)?;
            }
        }
        self.print(report)?;
        if let Some(directory) = self.pictures {
            fs::copy(self.pages.join(&page), directory.join(&page))?;
        }
        Ok(())
    }

    fn show(&mut self, view: &View) -> Result<()> {
        let size = json!({
            "width": view.width, "height": view.height, "mobile": view.mobile,
            "deviceScaleFactor": 1,
        });
        self.browser
            .call("Emulation.setDeviceMetricsOverride", &size)?;
        let media = json!({
            "media": view.media,
            "features": [{ "name": "prefers-color-scheme", "value": view.scheme }],
        });
        self.browser.call("Emulation.setEmulatedMedia", &media)?;
        Ok(())
    }

    /// Nothing of the report is missing in a PDF, and its links lead to something.
    fn print(&mut self, report: &Report) -> Result<()> {
        let paper = json!({ "paperWidth": 8.27, "paperHeight": 11.69, "preferCSSPageSize": true });
        let pdf = self.browser.call("Page.printToPDF", &paper)?;
        let file = self.pages.join(format!("{}.pdf", report.name));
        fs::write(&file, decoded(&pdf)?)?;
        // Lines and pages are broken where they must be.
        let dense = |text: &str| -> String { text.split_whitespace().collect() };
        let text = self
            .installed
            .tool("pdftotext", &["-raw", "-nopgbrk", "-", "-"], &file)?;
        let text = dense(&text);
        let texts = report.texts().into_iter();
        let missing = texts.filter(|wanted| !text.contains(&dense(wanted)));
        let mut wrong: Vec<_> = missing
            .map(|wanted| format!("it does not show {wanted:?}"))
            .collect();
        let targets = self.installed.tool("pdfinfo", &["-dests", "-"], &file)?;
        let links = "[...new Set([...document.links].map(({ hash }) => hash.slice(1)))]";
        let links = self
            .browser
            .evaluate(&format!("() => {links}"), &json!({}))?;
        let links: Vec<String> = serde_json::from_value(links)?;
        let lost = links
            .iter()
            .filter(|link| !targets.contains(&format!("\"{link}\"")));
        wrong.extend(lost.map(|link| format!("a link leads nowhere: {link}")));
        self.note(&report.name, "printed", wrong);
        if self.pictures.is_some() {
            self.keep(&format!("{}.pdf", report.name), &pdf)?;
        }
        Ok(())
    }

    fn note(&mut self, page: &str, view: &str, wrong: Vec<String>) {
        let sentences = wrong
            .into_iter()
            .map(|what| format!("{page}, {view}: {what}"));
        self.wrong.extend(sentences);
    }

    fn keep(&self, name: &str, answer: &Value) -> Result<()> {
        if let Some(directory) = self.pictures {
            fs::create_dir_all(directory)?;
            fs::write(directory.join(name), decoded(answer)?)?;
        }
        Ok(())
    }
}

/// The bytes that a method of the protocol answers.
fn decoded(answer: &Value) -> Result<Vec<u8>> {
    let text = answer["data"]
        .as_str()
        .context("the browser gave no data")?;
    Ok(STANDARD.decode(text)?)
}

/// What an event says against a page: it asks for something, or the browser complains.
fn complaint(event: &Value, page: &str) -> Option<String> {
    let parameters = &event["params"];
    match event["method"].as_str()? {
        "Network.requestWillBeSent" => {
            let url = parameters["request"]["url"].as_str()?;
            (url != Chromium::url(page)).then(|| format!("it loads {url}"))
        }
        "Log.entryAdded" => Some(format!("the browser says {}", parameters["entry"]["text"])),
        "Runtime.exceptionThrown" => Some(format!("a script fails: {parameters}")),
        _ => None,
    }
}
