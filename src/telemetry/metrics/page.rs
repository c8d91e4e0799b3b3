//! Prometheus' text format, version 0.0.4: <https://prometheus.io/docs/instrumenting/exposition_formats/>.

use std::fmt::Write;

use super::instrument::Observed;

/// The `Content-Type` of a page.
pub const CONTENT_TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

/// A page that is being written: families one after the other, each with all its samples.
#[derive(Debug, Default)]
pub struct Page {
    text: String,
    family: &'static str,
}

/// Names and values of a sample's labels.
pub type Labels<'a> = [(&'static str, &'a str)];

impl Page {
    /// The page.
    pub fn into_text(self) -> String {
        self.text
    }

    /// Begins a family of counters.
    pub fn counters(&mut self, name: &'static str, help: &str) {
        self.begin(name, help, "counter");
    }

    /// Begins a family of gauges.
    pub fn gauges(&mut self, name: &'static str, help: &str) {
        self.begin(name, help, "gauge");
    }

    /// Begins a family of histograms.
    pub fn histograms(&mut self, name: &'static str, help: &str) {
        self.begin(name, help, "histogram");
    }

    /// A family of one counter without labels.
    pub fn counter(&mut self, name: &'static str, help: &str, value: u64) {
        self.counters(name, help);
        self.sample(&[], value);
    }

    /// A family of one gauge without labels.
    pub fn gauge(&mut self, name: &'static str, help: &str, value: impl Into<f64>) {
        self.gauges(name, help);
        self.sample(&[], value.into());
    }

    /// A sample of the family begun last.
    pub fn sample(&mut self, labels: &Labels<'_>, value: impl std::fmt::Display) {
        self.line("", labels, None, value);
    }

    /// A histogram of the family begun last.
    pub fn histogram(&mut self, labels: &Labels<'_>, observed: &Observed) {
        for (bound, count) in &observed.buckets {
            self.line("_bucket", labels, Some(&bound.to_string()), count);
        }
        self.line("_bucket", labels, Some("+Inf"), observed.count);
        self.line("_sum", labels, None, observed.sum);
        self.line("_count", labels, None, observed.count);
    }

    fn begin(&mut self, name: &'static str, help: &str, kind: &str) {
        self.family = name;
        // Writing into a String cannot fail.
        let _ = write!(self.text, "# HELP {name} {help}\n# TYPE {name} {kind}\n");
    }

    fn line(&mut self, suffix: &str, labels: &Labels<'_>, le: Option<&str>, value: impl std::fmt::Display) {
        self.text.push_str(self.family);
        self.text.push_str(suffix);
        let le = le.map(|le| ("le", le));
        for (index, (name, value)) in labels.iter().copied().chain(le).enumerate() {
            self.text.push(if index == 0 { '{' } else { ',' });
            self.text.push_str(name);
            self.text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => self.text.push_str("\\\\"),
                    '"' => self.text.push_str("\\\""),
                    '\n' => self.text.push_str("\\n"),
                    c => self.text.push(c),
                }
            }
            self.text.push('"');
        }
        if !labels.is_empty() || le.is_some() {
            self.text.push('}');
        }
        let _ = writeln!(self.text, " {value}");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_as_the_format_has_them() {
        let mut page = Page::default();
        page.counters("a_total", "All a.");
        page.sample(&[("x", "1"), ("y", "back\\slash \"quoted\"\nline")], 3);
        page.gauge("b", "One b.", 0.5);
        page.histograms("c_seconds", "Some c.");
        page.histogram(&[("s", "t")], &Observed { buckets: vec![(0.001, 1), (2.0, 4)], sum: 0.25, count: 5 });
        let expected = "\
# HELP a_total All a.
# TYPE a_total counter
a_total{x=\"1\",y=\"back\\\\slash \\\"quoted\\\"\\nline\"} 3
# HELP b One b.
# TYPE b gauge
b 0.5
# HELP c_seconds Some c.
# TYPE c_seconds histogram
c_seconds_bucket{s=\"t\",le=\"0.001\"} 1
c_seconds_bucket{s=\"t\",le=\"2\"} 4
c_seconds_bucket{s=\"t\",le=\"+Inf\"} 5
c_seconds_sum{s=\"t\"} 0.25
c_seconds_count{s=\"t\"} 5
";
        assert_eq!(page.into_text(), expected);
    }
}
