//! An image as a byte stream over HTTP, resumed with Range (RFC 9110 section 14) when the connection breaks.
//!
//! The download runs on the async side and hands pieces to the thread that unpacks, at most [`PIECES`] ahead.

use std::io::{self, Read};
use std::time::Duration;

use bytes::Bytes;
use reqwest::{Client, Response, StatusCode, header};
use tokio::sync::mpsc;

use crate::agent::link::{Progress, chain};
use crate::agent::task::TaskError;

/// Pieces (each one read of the socket, at most some 100 kB) that may wait for the unpacker.
const PIECES: usize = 32;
/// Waits before attempt 2, 3, …; in all 75 s without one new byte, then the order fails and may be given again.
const BACKOFF_SECS: [u64; 6] = [1, 2, 4, 8, 20, 40];
/// A server that says nothing for this long is not sending.
const STALL: Duration = Duration::from_secs(30);

/// The reading end, for the unpacker's thread.
pub struct Download {
    pieces: mpsc::Receiver<Result<Bytes, TaskError>>,
    current: Bytes,
}

impl Read for Download {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        while self.current.is_empty() {
            match self.pieces.blocking_recv() {
                Some(Ok(piece)) => self.current = piece,
                Some(Err(e)) => return Err(io::Error::other(e)),
                None => return Ok(0),
            }
        }
        let n = self.current.len().min(buffer.len());
        buffer[..n].copy_from_slice(&self.current.split_to(n));
        Ok(n)
    }
}

/// Asks for the file and checks its length, so that a file that cannot be right is refused before a disk is opened.
///
/// # Errors
/// `download` if the server cannot be reached or does not have it, `truncated` if its length is not `size_bytes`.
pub async fn open(http: &Client, url: &str, size_bytes: u64, progress: &Progress) -> Result<Response, TaskError> {
    let mut attempt = 0;
    loop {
        let error = match request(http, url, 0).await {
            Ok(response) => match response.content_length() {
                Some(length) if length != size_bytes => {
                    let message =
                        format!("the server has {length} bytes of the image, but {size_bytes} were expected; nothing was written");
                    return Err(TaskError::for_good("truncated", message));
                }
                _ => return Ok(response),
            },
            Err(e) => e,
        };
        pause(&mut attempt, error, progress).await?;
    }
}

/// Streams `response` and, where it breaks off, the rest of the file. The sending half lives on the current runtime.
pub fn stream(http: Client, url: String, response: Response, size_bytes: u64, progress: Progress) -> Download {
    let (send, pieces) = mpsc::channel(PIECES);
    tokio::spawn(async move {
        if let Err(e) = pump(&http, &url, response, size_bytes, &progress, &send).await {
            // A closed channel means that writing ended first: then nobody wants to hear.
            drop(send.send(Err(e)).await);
        }
    });
    Download { pieces, current: Bytes::new() }
}

async fn pump(
    http: &Client,
    url: &str,
    response: Response,
    size_bytes: u64,
    progress: &Progress,
    send: &mpsc::Sender<Result<Bytes, TaskError>>,
) -> Result<(), TaskError> {
    let mut response = Some(response);
    let mut offset = 0;
    let mut attempt = 0;
    while offset < size_bytes {
        let error = match response.take() {
            Some(mut live) => loop {
                let next = tokio::select! {
                    next = tokio::time::timeout(STALL, live.chunk()) => next,
                    () = progress.cancelled() => return Err(TaskError::cancelled()),
                };
                match next {
                    Ok(Ok(Some(piece))) => {
                        offset += piece.len() as u64;
                        attempt = 0;
                        if send.send(Ok(piece)).await.is_err() {
                            return Ok(());
                        }
                    }
                    Ok(Ok(None)) if offset >= size_bytes => return Ok(()),
                    Ok(Ok(None)) => break TaskError::for_now("truncated", format!("the image ended after {offset} of {size_bytes} bytes")),
                    Ok(Err(e)) => {
                        break TaskError::for_now(
                            "download",
                            format!("the image broke off after {offset} of {size_bytes} bytes: {}", chain(&e)),
                        );
                    }
                    Err(_) => {
                        break TaskError::for_now(
                            "download",
                            format!("the server sent nothing for {} s after {offset} of {size_bytes} bytes", STALL.as_secs()),
                        );
                    }
                }
            },
            None => match request(http, url, offset).await {
                Ok(live) => {
                    response = Some(live);
                    continue;
                }
                Err(e) => e,
            },
        };
        pause(&mut attempt, error, progress).await?;
    }
    Ok(())
}

/// Waits before the next attempt, or gives the error back when there have been enough.
async fn pause(attempt: &mut usize, error: TaskError, progress: &Progress) -> Result<(), TaskError> {
    let Some(secs) = BACKOFF_SECS.get(*attempt).filter(|_| error.retry) else {
        return Err(error);
    };
    *attempt += 1;
    tokio::select! {
        () = tokio::time::sleep(Duration::from_secs(*secs)) => Ok(()),
        () = progress.cancelled() => Err(TaskError::cancelled()),
    }
}

async fn request(http: &Client, url: &str, offset: u64) -> Result<Response, TaskError> {
    let mut request = http.get(url);
    if offset > 0 {
        request = request.header(header::RANGE, format!("bytes={offset}-"));
    }
    let answer = tokio::time::timeout(STALL, request.send()).await;
    let response = match answer {
        Ok(Ok(response)) => response,
        Ok(Err(e)) => return Err(TaskError::for_now("download", format!("the image cannot be fetched: {}", chain(&e)))),
        Err(_) => return Err(TaskError::for_now("download", format!("the server did not answer for {} s", STALL.as_secs()))),
    };
    match response.status() {
        StatusCode::OK if offset == 0 => Ok(response),
        StatusCode::PARTIAL_CONTENT if starts_at(&response, offset) => Ok(response),
        StatusCode::OK | StatusCode::PARTIAL_CONTENT => {
            Err(TaskError::for_good("download", format!("the server cannot continue the image at byte {offset}")))
        }
        status if status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS => {
            Err(TaskError::for_now("download", format!("the server answered {status} to the request for the image")))
        }
        status => Err(TaskError::for_good("download", format!("the server answered {status} to the request for the image"))),
    }
}

/// `Content-Range: bytes 100-199/200` begins where we asked.
fn starts_at(response: &Response, offset: u64) -> bool {
    let range = response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
    let start = range.and_then(|text| text.strip_prefix("bytes ")).and_then(|text| text.split('-').next());
    start.and_then(|text| text.trim().parse().ok()) == Some(offset)
}
