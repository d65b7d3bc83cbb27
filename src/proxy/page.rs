//! Answers of the proxy's own: what is wrong, with which tenant, and why.

use hyper::header::{self, HeaderMap, HeaderValue};
use hyper::{Response, StatusCode};

use super::body::Answer;

/// What the proxy says itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Page {
    pub status: StatusCode,
    pub text: String,
    /// When to come again, seconds.
    pub retry_after: Option<u64>,
    /// The connection is of no use any more.
    pub close: bool,
}

impl Page {
    pub fn new(status: StatusCode, text: impl Into<String>) -> Page {
        Page { status, text: text.into(), retry_after: None, close: false }
    }

    pub fn retry_after(mut self, seconds: u64) -> Page {
        self.retry_after = Some(seconds);
        self
    }

    pub fn close(mut self) -> Page {
        self.close = true;
        self
    }

    /// As HTML for those who ask for it, else as plain text.
    pub fn response(self, asked: &HeaderMap) -> Response<Answer> {
        let wants_html = asked
            .get_all(header::ACCEPT)
            .iter()
            .any(|value| value.to_str().is_ok_and(|value| value.to_ascii_lowercase().contains("text/html")));
        let (kind, body) = match wants_html {
            true => ("text/html; charset=utf-8", html(self.status, &self.text)),
            false => ("text/plain; charset=utf-8", format!("{}\n", self.text)),
        };
        let mut response = Response::new(Answer::text(body));
        *response.status_mut() = self.status;
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(kind));
        headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
        // Who reads a log has to see whose answer this is.
        headers.insert(header::SERVER, HeaderValue::from_static("mcloud"));
        if let Some(seconds) = self.retry_after {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        if self.close {
            headers.insert(header::CONNECTION, HeaderValue::from_static("close"));
        }
        response
    }
}

fn html(status: StatusCode, text: &str) -> String {
    let title = format!("{} {}", status.as_u16(), status.canonical_reason().unwrap_or_default());
    format!(
        "<!doctype html>\n<html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title}</title>\
         <meta name=\"viewport\" content=\"width=device-width\">\
         <style>body{{font:16px/1.5 system-ui,sans-serif;max-width:40em;margin:15vh auto;padding:0 1em}}</style></head>\
         <body><h1>{title}</h1><p>{}</p><p><small>mcloud</small></p></body></html>\n",
        escaped(text)
    )
}

fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text_and_no_markup() {
        assert_eq!(escaped("<a href='x'>&\"</a>"), "&lt;a href=&#39;x&#39;&gt;&amp;&quot;&lt;/a&gt;");
    }

    #[test]
    fn who_asks_for_html_gets_it() {
        let page = || Page::new(StatusCode::SERVICE_UNAVAILABLE, "shop is stopped").retry_after(3).close();
        let plain = page().response(&HeaderMap::new());
        assert_eq!(plain.headers()[header::CONTENT_TYPE], "text/plain; charset=utf-8");
        assert_eq!(
            (&plain.headers()[header::RETRY_AFTER], &plain.headers()[header::CONNECTION]),
            (&HeaderValue::from(3), &HeaderValue::from_static("close"))
        );
        let asked = HeaderMap::from_iter([(header::ACCEPT, HeaderValue::from_static("text/html,*/*"))]);
        assert_eq!(page().response(&asked).headers()[header::CONTENT_TYPE], "text/html; charset=utf-8");
    }
}
