//! Lets a client call the server by any name.
//!
//! An HTTP/2 request names the server it is meant for in `:authority`. etcd ignores that name, and
//! some of etcd's clients send one that is no authority by RFC 3986: `etcdctl endpoint status` of
//! 3.4 sends the URL of the endpoint (`http://127.0.0.1:2379`), clients of 3.5.0 send
//! `#initially=[127.0.0.1:2379]`. The h2 crate resets such a request as malformed before anybody
//! is asked. [`AnyAuthority`] stands between the socket and h2 and puts a stand-in in place of such
//! a name.
//!
//! It reads frames only until the first HEADERS frame has shown that the client names the server
//! properly, which is what nearly all do. From there on the connection passes at no cost. A client
//! that does not is followed to its end: its HPACK encoder sends the name again whenever newer
//! fields have pushed it out of the dynamic table.
//!
//! Refuses: judging what a client sends. Whatever is not understood here (HTTP/1.1, a broken frame,
//! a frame above the size limit, an empty name, a name that starts in a CONTINUATION frame) passes
//! as it came, for the HTTP library to answer.
//!
//! Invariants: a stand-in is as long as the name was, so that both sides' dynamic tables stay equal
//! (RFC 7541, section 4.1) and no state of theirs is needed here; at most one HEADERS frame is held
//! back, and nothing else.

use std::io::{self, IoSlice};
use std::ops::Range;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use http::uri::Authority;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};

use super::hpack::{find_authority, put_string};

/// What an HTTP/2 client sends first (RFC 9113, section 3.4).
const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";
/// Length of a frame's header: length (3 bytes), type, flags, stream (4 bytes).
const FRAME_HEADER_BYTES: usize = 9;
/// The largest payload a client may send us: HTTP/2's initial value, which our settings keep.
const FRAME_PAYLOAD_BYTES_MAX: usize = 16 << 10;
/// The type of a HEADERS frame, and its flags that move the field block.
const HEADERS: u8 = 1;
const FLAG_PADDED: u8 = 0x8;
const FLAG_PRIORITY: u8 = 0x20;
/// The stream a HEADERS frame depends on, and its weight.
const PRIORITY_BYTES: usize = 5;

/// A connection accepted from a client, with names of the server that h2 would refuse replaced.
#[derive(Debug)]
pub struct AnyAuthority<S> {
    stream: S,
    incoming: Incoming,
    /// Something was written.
    written: bool,
}

impl<S> AnyAuthority<S> {
    /// A connection of which nothing has been read.
    pub fn new(stream: S) -> Self {
        Self { stream, incoming: Incoming::default(), written: false }
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for AnyAuthority<S> {
    fn poll_read(self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &mut ReadBuf<'_>) -> Poll<io::Result<()>> {
        let Self { stream, incoming, .. } = self.get_mut();
        loop {
            if incoming.give(buf) || buf.remaining() == 0 {
                return Poll::Ready(Ok(()));
            }
            let before = buf.filled().len();
            ready!(Pin::new(&mut *stream).poll_read(cx, buf))?;
            if incoming.passes() {
                return Poll::Ready(Ok(()));
            }
            let new = &buf.filled()[before..];
            if new.is_empty() {
                incoming.end();
                incoming.give(buf);
                return Poll::Ready(Ok(()));
            }
            incoming.take(new);
            buf.set_filled(before);
        }
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for AnyAuthority<S> {
    fn poll_write(mut self: Pin<&mut Self>, cx: &mut Context<'_>, buf: &[u8]) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write(cx, buf)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        bufs: &[IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        self.written = true;
        Pin::new(&mut self.stream).poll_write_vectored(cx, bufs)
    }

    /// Not before the first write: h2 asks once at the start to decide from which size on a payload
    /// is not copied into its buffer, and then writes each such payload by a call of its own. With
    /// "no" it is 1,024 bytes and not 256, so that the many small answers of one moment go out
    /// together. Later it asks again to write a large payload together with its header.
    fn is_write_vectored(&self) -> bool {
        self.written && self.stream.is_write_vectored()
    }

    fn poll_flush(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(cx)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(cx)
    }
}

/// Where in a client's bytes we are.
#[derive(Clone, Copy, Debug)]
enum Place {
    /// This many bytes of the preface have come.
    Preface(usize),
    /// At a frame's start, or in a part of one that is held back.
    Frame,
    /// In a frame that passes, with this many bytes to come.
    Payload(usize),
    /// There is nothing more to look for.
    Passing,
}

/// The bytes from a client on their way to the reader.
#[derive(Debug)]
struct Incoming {
    place: Place,
    /// The client has sent a name that needed a stand-in.
    followed: bool,
    /// The start of a frame: its header, all of it for HEADERS.
    held: Vec<u8>,
    /// Bytes for the reader, of which the first `given` are gone already.
    ready: Vec<u8>,
    given: usize,
}

impl Default for Incoming {
    fn default() -> Self {
        Self { place: Place::Preface(0), followed: false, held: Vec::new(), ready: Vec::new(), given: 0 }
    }
}

impl Incoming {
    /// Whether bytes may go to the reader without a look, and none wait to go before them.
    fn passes(&self) -> bool {
        matches!(self.place, Place::Passing) && self.ready.is_empty()
    }

    /// Moves what is ready to the reader; false if nothing was.
    fn give(&mut self, buf: &mut ReadBuf<'_>) -> bool {
        if self.ready.is_empty() {
            return false;
        }
        let waiting = &self.ready[self.given..];
        let count = waiting.len().min(buf.remaining());
        buf.put_slice(&waiting[..count]);
        self.given += count;
        if self.given == self.ready.len() {
            self.given = 0;
            self.ready.clear();
            if self.passes() {
                (self.ready, self.held) = (Vec::new(), Vec::new());
            }
        }
        true
    }

    /// No more bytes will come.
    fn end(&mut self) {
        self.ready.append(&mut self.held);
        self.place = Place::Passing;
    }

    /// The next bytes from the client.
    fn take(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let pass_count = match self.place {
                Place::Preface(seen) => {
                    let same = PREFACE[seen..].iter().zip(bytes).take_while(|(a, b)| a == b).count();
                    self.place = match seen + same {
                        count if count == PREFACE.len() => Place::Frame,
                        count if same == bytes.len() => Place::Preface(count),
                        _ => Place::Passing,
                    };
                    same
                }
                Place::Frame => {
                    bytes = self.take_frame(bytes);
                    continue;
                }
                Place::Payload(left) => {
                    let count = left.min(bytes.len());
                    self.place = if count == left { Place::Frame } else { Place::Payload(left - count) };
                    count
                }
                Place::Passing => bytes.len(),
            };
            let (passing, rest) = bytes.split_at(pass_count);
            self.ready.extend_from_slice(passing);
            bytes = rest;
        }
    }

    /// Holds back a frame's header, and all of a HEADERS frame; returns the bytes beyond.
    fn take_frame<'a>(&mut self, bytes: &'a [u8]) -> &'a [u8] {
        let wanted = match self.held.len() < FRAME_HEADER_BYTES {
            true => FRAME_HEADER_BYTES,
            false => FRAME_HEADER_BYTES + payload_length(&self.held),
        };
        let (taken, rest) = bytes.split_at(bytes.len().min(wanted - self.held.len()));
        self.held.extend_from_slice(taken);
        if self.held.len() < wanted {
            return rest;
        }
        if wanted == FRAME_HEADER_BYTES {
            let length = payload_length(&self.held);
            if self.held[3] == HEADERS && (1..=FRAME_PAYLOAD_BYTES_MAX).contains(&length) {
                return rest;
            }
            self.place = if length == 0 { Place::Frame } else { Place::Payload(length) };
        } else {
            if let Some(repaired) = repaired(&self.held) {
                self.held = repaired;
                self.followed = true;
            }
            self.place = if self.followed { Place::Frame } else { Place::Passing };
        }
        self.ready.append(&mut self.held);
        rest
    }
}

/// The length of a frame without its header, of which all bytes must be there.
fn payload_length(frame: &[u8]) -> usize {
    usize::from(frame[0]) << 16 | usize::from(frame[1]) << 8 | usize::from(frame[2])
}

/// A HEADERS frame with a stand-in for the name of the server; `None` if it needs none or if the
/// name is not to be found.
fn repaired(frame: &[u8]) -> Option<Vec<u8>> {
    let fields = fields_of(frame)?;
    let (place, name) = find_authority(&frame[fields.clone()])?;
    if name.is_empty() || Authority::try_from(name.as_slice()).is_ok() {
        return None;
    }
    let mut repaired = frame[..fields.start + place.start].to_vec();
    put_string(&mut repaired, &stand_in(name));
    repaired.extend_from_slice(&frame[fields.start + place.end..]);
    let length = repaired.len() - FRAME_HEADER_BYTES;
    if length > FRAME_PAYLOAD_BYTES_MAX {
        return None;
    }
    repaired[..3].copy_from_slice(&[(length >> 16) as u8, (length >> 8) as u8, length as u8]);
    Some(repaired)
}

/// Where in a HEADERS frame its fields are; `None` if its flags promise more than there is.
fn fields_of(frame: &[u8]) -> Option<Range<usize>> {
    let flags = frame[4];
    let mut start = FRAME_HEADER_BYTES;
    let mut end = frame.len();
    if flags & FLAG_PADDED != 0 {
        end = end.checked_sub(usize::from(*frame.get(start)?))?;
        start += 1;
    }
    if flags & FLAG_PRIORITY != 0 {
        start += PRIORITY_BYTES;
    }
    (start <= end).then_some(start..end)
}

/// A name of the same length that every HTTP library takes: `http---127.0.0.1-2379`.
fn stand_in(mut name: Vec<u8>) -> Vec<u8> {
    for byte in &mut name {
        if !byte.is_ascii_alphanumeric() && *byte != b'.' {
            *byte = b'-';
        }
    }
    name
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use tokio::io::{AsyncReadExt, AsyncWriteExt, duplex, split};

    use super::super::hpack::tests::huffman;
    use super::*;

    const SETTINGS: u8 = 4;
    const DATA: u8 = 0;
    const END_STREAM_AND_HEADERS: u8 = 0x5;
    /// `:method: POST`, `:scheme: http`, `:path: /a`, none of them kept in the dynamic table.
    const CALL: &[u8] = b"\x83\x86\x04\x02/a";
    const URL: &[u8] = b"http://127.0.0.1:2379";

    fn frame(kind: u8, flags: u8, stream: u8, payload: &[u8]) -> Vec<u8> {
        let length = (payload.len() as u32).to_be_bytes();
        [&length[1..], &[kind, flags, 0, 0, 0, stream], payload].concat()
    }

    fn connection(frames: &[Vec<u8>]) -> Vec<u8> {
        [PREFACE, &frame(SETTINGS, 0, 0, b""), &frames.concat()].concat()
    }

    fn call(stream: u8, fields: &[&[u8]]) -> Vec<u8> {
        frame(HEADERS, END_STREAM_AND_HEADERS, stream, &fields.concat())
    }

    fn string(text: &[u8]) -> Vec<u8> {
        let mut written = Vec::new();
        put_string(&mut written, text);
        written
    }

    /// `:authority` by its index, kept in the dynamic table.
    fn named(name: &[u8]) -> Vec<u8> {
        [&[0x41], string(name).as_slice()].concat()
    }

    /// What h2 reads when a client sends these pieces.
    fn read(pieces: &[&[u8]]) -> (Vec<u8>, Incoming) {
        let mut incoming = Incoming::default();
        let mut read = Vec::new();
        let mut some = |incoming: &mut Incoming| {
            let mut space = [0; 7];
            let mut buf = ReadBuf::new(&mut space);
            while incoming.give(&mut buf) {
                read.extend_from_slice(buf.filled());
                buf.clear();
            }
        };
        for piece in pieces {
            incoming.take(piece);
            some(&mut incoming);
        }
        let before_end = Incoming { held: incoming.held.clone(), ready: Vec::new(), ..incoming };
        incoming.end();
        some(&mut incoming);
        (read, before_end)
    }

    /// The names of the calls that h2 accepts from a client that sends `sent`, through a pipe that
    /// holds so few bytes at a time.
    async fn names_served(sent: &[u8], pipe_bytes: usize) -> Vec<String> {
        let (client, server) = duplex(pipe_bytes);
        served(sent, client, AnyAuthority::new(server)).await
    }

    async fn served<S>(sent: &[u8], client: impl AsyncRead + AsyncWrite, server: S) -> Vec<String>
    where
        S: AsyncRead + AsyncWrite + Unpin,
    {
        let (mut answers, mut requests) = split(client);
        // h2 forgets calls that it has not handed out when the client goes, so a last one tells the
        // server to hang up. It does so earlier if a frame is broken: no error here is a failure.
        let last = call(127, &[CALL, b"\x01\x04last"]);
        let send = async {
            let _ = requests.write_all(&[sent, &last].concat()).await;
        };
        let receive = async {
            let _ = answers.read_to_end(&mut Vec::new()).await;
        };
        let serve = async {
            let mut names = Vec::new();
            let mut connection = h2::server::handshake(server).await.expect("the preface and SETTINGS came");
            while let Some(Ok((request, _))) = connection.accept().await {
                match request.uri().authority().map(Authority::as_str) {
                    Some("last") => break,
                    name => names.push(name.unwrap_or_default().to_owned()),
                }
            }
            names
        };
        tokio::join!(send, receive, serve).2
    }

    #[tokio::test]
    async fn etcdctl_3_4_may_call_the_server_by_its_url() {
        // As etcdctl 3.4.23 sends it: Huffman code, path and name kept in the dynamic table.
        let fields = [
            b"\x83\x86\x45\x97\x60\xa9\x24\x88\x2d\x9d\xcb\x65\x71\xaf\xa0\x66\xa9\x25\xa8\x75\x10\xac\x6e\x48\xd3\x6a\x3f"
                .as_slice(),
            b"\x41\x90\x9d\x29\xae\xe3\x0c\x04\x4e\xae\x05\xc0\xb8\x6e\x32\xcb\xed\x87",
        ];
        let sent = connection(&[call(1, &fields), call(3, &[b"\x83\x86\xbf\xbe"])]);
        assert_eq!(names_served(&sent, 1 << 16).await, ["http---127.0.0.1-33951"; 2]);
    }

    #[tokio::test]
    async fn h2_alone_refuses_such_a_name() {
        let (client, server) = duplex(1 << 16);
        let sent = connection(&[call(1, &[CALL, &named(URL)]), call(3, &[CALL, &named(b"localhost")])]);
        assert_eq!(
            served(&sent, client, server).await,
            ["localhost"],
            "if both are served, this file can go"
        );
    }

    #[tokio::test]
    async fn a_name_is_found_in_every_way_it_can_be_written() {
        let name = b"#initially=[127.0.0.1:2379]";
        let spelt = [&[0x40], string(b":authority").as_slice(), &string(name)].concat();
        let spelt_in_code = [&[0x10], huffman(b":authority").as_slice(), &huffman(name)].concat();
        for field in [
            named(name),
            [&[0x41], huffman(name).as_slice()].concat(),
            [&[0x01], string(name).as_slice()].concat(),
            [&[0x11], huffman(name).as_slice()].concat(),
            spelt,
            spelt_in_code,
        ] {
            // Behind a change of the dynamic table's size to 4000 bytes.
            let sent = connection(&[call(1, &[b"\x3f\x81\x1f", CALL, &field])]);
            assert_eq!(names_served(&sent, 1 << 16).await, ["-initially--127.0.0.1-2379-"], "{field:x?}");
        }
    }

    #[tokio::test]
    async fn padding_and_priority_stay_where_they_are() {
        let fields = [CALL, &named(URL)].concat();
        let padded = [b"\x03\0\0\0\0\x09".as_slice(), fields.as_slice(), &[0, 0, 0]].concat();
        let flags = END_STREAM_AND_HEADERS | FLAG_PADDED | FLAG_PRIORITY;
        let sent = connection(&[frame(HEADERS, flags, 1, &padded), call(3, &[CALL, b"\xbe"])]);
        assert_eq!(names_served(&sent, 1 << 16).await, ["http---127.0.0.1-2379"; 2]);
    }

    #[tokio::test]
    async fn a_name_that_left_the_dynamic_table_may_come_again() {
        // Each call's last field fills the table but for the name, or all of it.
        let filler = |bytes| [&[0x40, 1, b'x'], string(&vec![b'x'; bytes]).as_slice()].concat();
        let beside_the_name = 4096 - (32 + 10 + URL.len()) - (32 + 1);
        let sent = connection(&[
            call(1, &[CALL, &named(URL), &filler(beside_the_name)]),
            call(3, &[CALL, b"\xbf", &filler(4000)]),
            call(5, &[CALL, &named(URL)]),
            call(7, &[CALL, b"\xbe"]),
        ]);
        assert_eq!(names_served(&sent, 1 << 16).await, ["http---127.0.0.1-2379"; 4]);
    }

    #[test]
    fn a_client_that_names_the_server_properly_is_read_no_further() {
        for field in [named(b"127.0.0.1:2379"), named(b"[::1]:2379"), b"\x7f\x01x\x01x".to_vec(), Vec::new()]
        {
            let sent = connection(&[call(1, &[CALL, &field])]);
            let (read, incoming) = read(&[&sent]);
            assert_eq!(read, sent);
            assert!(incoming.passes(), "{incoming:?}");
        }
        assert!(read(&[b"GET"]).1.passes());
        assert!(read(&[b"PRI * HTTP/1"]).1.passes());
        assert!(!read(&[b"PRI * HTTP/2"]).1.passes());
    }

    #[test]
    fn what_is_not_understood_comes_out_as_it_came() {
        let bad = [CALL, &named(URL)].concat();
        let full = [bad.as_slice(), &[0x40, 1, b'x'], &string(&[b'x'; 16_349])].concat();
        assert_eq!(full.len(), FRAME_PAYLOAD_BYTES_MAX);
        let coded = [CALL, &[0x41], &huffman(URL), &full[bad.len()..]].concat();
        for frame in [
            call(1, &[CALL, &named(b"")]),
            // The stand-in, in plain text, would make the frame too long.
            frame(HEADERS, END_STREAM_AND_HEADERS, 1, &[coded.as_slice(), b"\x00\x01y\x01y"].concat()),
            frame(HEADERS, END_STREAM_AND_HEADERS, 1, &[full.as_slice(), b"x"].concat()),
            frame(HEADERS, END_STREAM_AND_HEADERS | FLAG_PADDED, 1, &[&[250], bad.as_slice()].concat()),
            frame(HEADERS, END_STREAM_AND_HEADERS | FLAG_PRIORITY, 1, b"\0\0"),
            frame(HEADERS, END_STREAM_AND_HEADERS, 1, b""),
            // The name goes on in the next frame; the code ends with a whole byte of padding; a
            // number without an end.
            frame(HEADERS, 1, 1, &bad[..bad.len() - 1]),
            call(1, &[CALL, b"\x41\x82\x9d\xff"]),
            call(1, &[CALL, b"\x41\x7f\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff"]),
        ] {
            let sent = connection(&[frame]);
            assert_eq!(read(&[&sent]).0, sent);
        }
    }

    #[tokio::test]
    async fn the_start_of_a_frame_is_not_lost_when_the_client_goes() {
        let sent = connection(&[call(1, &[CALL, &named(URL)])]);
        for length in 0..=sent.len() {
            let mut read = Vec::new();
            AnyAuthority::new(&sent[..length]).read_to_end(&mut read).await.expect("memory can be read");
            assert_eq!(read == sent[..length], length < sent.len());
        }
    }

    /// Frames as a client might send them, some of them HEADERS with and without sense.
    fn frames() -> impl Strategy<Value = Vec<Vec<u8>>> {
        let any_bytes = || prop::collection::vec(any::<u8>(), 0..80);
        let field = prop_oneof![
            any_bytes().prop_map(|name| named(&name)),
            any_bytes().prop_map(|name| [&[0x01], huffman(&name).as_slice()].concat()),
            any_bytes(),
            Just(CALL.to_vec()),
        ];
        let headers = (any::<u8>(), prop::collection::vec(field, 0..4));
        let one = prop_oneof![
            headers.prop_map(|(flags, fields)| frame(HEADERS, flags, 1, &fields.concat())),
            (any::<u8>(), any_bytes()).prop_map(|(kind, payload)| frame(kind, 0, 1, &payload)),
            any_bytes().prop_map(|payload| frame(DATA, 0, 1, &payload)),
        ];
        prop::collection::vec(one, 0..8)
    }

    proptest! {
        #[test]
        fn it_does_not_matter_in_which_pieces_bytes_arrive(
            frames in frames(),
            lengths in prop::collection::vec(1_usize..40, 1..20),
        ) {
            let sent = connection(&frames);
            let mut pieces = Vec::new();
            let mut rest = sent.as_slice();
            for length in lengths.iter().cycle() {
                if rest.is_empty() {
                    break;
                }
                let (piece, after) = rest.split_at(rest.len().min(*length));
                pieces.push(piece);
                rest = after;
            }
            prop_assert_eq!(read(&pieces).0, read(&[&sent]).0);
        }

        #[test]
        fn without_a_headers_frame_nothing_is_touched(
            mut frames in frames(),
            other in prop::collection::vec(any::<u8>(), 0..200),
        ) {
            frames.retain(|frame| frame[3] != HEADERS);
            let sent = connection(&frames);
            prop_assert_eq!(read(&[&sent]).0, sent);
            prop_assert_eq!(read(&[&other]).0, other);
        }

        #[test]
        fn any_bytes_after_the_preface_are_survived(bytes in prop::collection::vec(0_u8..8, 0..400)) {
            read(&[PREFACE, &bytes]);
        }

        #[test]
        fn a_call_by_any_name_is_served(
            names in prop::collection::vec(prop::collection::vec(any::<u8>(), 1..200), 1..4),
            in_code in any::<bool>(),
            pipe_bytes in 1_usize..100,
        ) {
            let mut frames = vec![call(1, &[CALL, &named(URL)])];
            for (name, stream) in names.iter().zip([3, 7, 11]) {
                let field = if in_code { [&[0x41], huffman(name).as_slice()].concat() } else { named(name) };
                frames.push(call(stream, &[CALL, &field]));
                frames.push(call(stream + 2, &[CALL, b"\xbe"]));
            }
            let runtime = tokio::runtime::Builder::new_current_thread().build().expect("a runtime");
            let served = runtime.block_on(names_served(&connection(&frames), pipe_bytes));
            prop_assert_eq!(served.len(), frames.len());
            for (name, pair) in names.iter().zip(served[1..].chunks(2)) {
                let expected = match Authority::try_from(name.as_slice()) {
                    Ok(proper) => proper.to_string(),
                    Err(_) => String::from_utf8(stand_in(name.clone())).expect("plain text"),
                };
                prop_assert_eq!(&pair[0], &expected);
                prop_assert_eq!(&pair[1], &expected);
            }
        }
    }
}
