//! A report as one page: it needs no network and no other file, and says everything without its script, which only
//! reads values off under the pointer.
//!
//! Must stay true: text from outside (URLs, names of caches, errors) is escaped wherever it goes.

mod chart;
mod load;

pub use chart::{Chart, Line, Unit};
pub use load::page;

use crate::report::AssertionReport;
use std::fmt::Write;

/// What stands on a page, from top to bottom.
#[derive(Debug, Clone, Default)]
pub struct Page {
    pub title: String,
    /// What was run, in a few words each.
    pub facts: Vec<String>,
    /// Said in front of all else, when not all is well with the run itself.
    pub warning: Option<String>,
    pub assertions: Vec<AssertionReport>,
    pub tiles: Vec<Tile>,
    pub charts: Vec<Chart>,
    pub tables: Vec<Table>,
    /// The whole report, for programs that find only the page.
    pub json: String,
}

/// A number that matters.
#[derive(Debug, Clone)]
pub struct Tile {
    pub name: &'static str,
    pub value: String,
    pub note: String,
}

/// Rows of text; the first cell of each names it.
#[derive(Debug, Clone, Default)]
pub struct Table {
    pub title: &'static str,
    pub head: Vec<&'static str>,
    pub rows: Vec<Vec<String>>,
}

const STYLE: &str = include_str!("html/page.css");
const SCRIPT: &str = include_str!("html/page.js");

impl Page {
    /// The page as HTML.
    pub fn render(&self) -> String {
        let mut out = String::with_capacity(64 * 1024 + 2 * self.json.len());
        let title = escape(&self.title);
        let _infallible = write!(
            out,
            "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\">\
             <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
             <title>{title}</title>\n<style>\n{STYLE}</style></head>\n<body><main>\n\
             <header><h1>{title}</h1><p>"
        );
        for fact in &self.facts {
            let _infallible = write!(out, "<span>{}</span> ", escape(fact));
        }
        out.push_str("</p></header>\n");
        if let Some(warning) = &self.warning {
            let _infallible = writeln!(out, "<p class=\"verdict bad\">{}</p>", escape(warning));
        }
        self.render_assertions(&mut out);
        out.push_str("<section class=\"tiles\">\n");
        for Tile { name, value, note } in &self.tiles {
            let (value, note) = (escape(value), escape(note));
            let _infallible = writeln!(
                out,
                "<div><h2>{name}</h2><p class=\"value\">{value}</p><p class=\"note\">{note}</p></div>"
            );
        }
        out.push_str("</section>\n<section class=\"charts\">\n");
        for chart in &self.charts {
            chart.render(&mut out);
        }
        out.push_str("</section>\n<section class=\"tables\">\n");
        for table in self.tables.iter().filter(|table| !table.rows.is_empty()) {
            table.render(&mut out);
        }
        // Inside a script element only its end must not appear (HTML, section 4.12.1.3).
        let json = self.json.replace('<', "\\u003c");
        let _infallible = write!(
            out,
            "</section>\n</main>\n<script type=\"application/json\" id=\"report\">{json}</script>\n\
             <script>\n{SCRIPT}</script>\n</body></html>\n"
        );
        out
    }

    fn render_assertions(&self, out: &mut String) {
        if self.assertions.is_empty() {
            return;
        }
        let failed = self.assertions.iter().filter(|assertion| !assertion.held).count();
        let _infallible = match failed {
            0 => write!(
                out,
                "<section class=\"verdict good\"><h2>Passed: all {} assertions held</h2><ul>",
                self.assertions.len()
            ),
            _ => write!(
                out,
                "<section class=\"verdict bad\"><h2>Failed: {failed} of {} assertions did not hold</h2><ul>",
                self.assertions.len()
            ),
        };
        for AssertionReport { assertion, held, shown, .. } in &self.assertions {
            let (mark, class) = if *held { ("\u{2713}", "held") } else { ("\u{2717}", "failed") };
            let _infallible = write!(
                out,
                "<li class=\"{class}\"><b>{mark}</b> <code>{}</code> <span>{}</span></li>",
                escape(assertion),
                escape(shown)
            );
        }
        out.push_str("</ul></section>\n");
    }
}

impl Table {
    fn render(&self, out: &mut String) {
        let _infallible = write!(out, "<div><h2>{}</h2><div class=\"wide\"><table>", self.title);
        if !self.head.is_empty() {
            out.push_str("<tr>");
            for cell in &self.head {
                let _infallible = write!(out, "<th>{cell}</th>");
            }
            out.push_str("</tr>");
        }
        for row in &self.rows {
            out.push_str("<tr>");
            for (index, cell) in row.iter().enumerate() {
                let tag = if index == 0 { "th" } else { "td" };
                let _infallible = write!(out, "<{tag}>{}</{tag}>", escape(cell));
            }
            out.push_str("</tr>");
        }
        out.push_str("</table></div></div>\n");
    }
}

/// Text as HTML, also inside a quoted attribute.
pub(crate) fn escape(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c if c.is_control() => out.extend(c.escape_debug()),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests;
