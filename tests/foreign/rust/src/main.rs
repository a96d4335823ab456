//! gRPC's interoperability cases with tonic, one function a case: interop CASE HOST:PORT

use http::uri::PathAndQuery;
use prost::Message;
use std::error::Error;
use std::time::Duration;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::client::Grpc;
use tonic::codec::Streaming;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Response, Status};
use tonic_prost::ProstCodec;

type Outcome = Result<(), Box<dyn Error>>;

const ECHO_INITIAL: &str = "x-grpc-test-echo-initial";
const ECHO_TRAILING: &str = "x-grpc-test-echo-trailing-bin";
const SIZES: [(i32, usize); 4] = [(31415, 27182), (9, 8), (2653, 1828), (58979, 45904)];
const SPECIAL: &str =
    "\t\ntest with whitespace\r\nand Unicode BMP \u{263a} and non-BMP \u{1f608}\t\n";

#[derive(Clone, PartialEq, Message)]
struct Empty {}

#[derive(Clone, PartialEq, Message)]
struct Payload {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(bytes = "vec", tag = "2")]
    body: Vec<u8>,
}

#[derive(Clone, PartialEq, Message)]
struct EchoStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
}

#[derive(Clone, PartialEq, Message)]
struct SimpleRequest {
    #[prost(int32, tag = "2")]
    response_size: i32,
    #[prost(message, optional, tag = "3")]
    payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    response_status: Option<EchoStatus>,
}

#[derive(Clone, PartialEq, Message)]
struct PayloadMessage {
    #[prost(message, optional, tag = "1")]
    payload: Option<Payload>,
}

#[derive(Clone, PartialEq, Message)]
struct StreamingInputResponse {
    #[prost(int32, tag = "1")]
    aggregated_payload_size: i32,
}

#[derive(Clone, PartialEq, Message)]
struct ResponseParameters {
    #[prost(int32, tag = "1")]
    size: i32,
}

#[derive(Clone, PartialEq, Message)]
struct StreamingRequest {
    #[prost(message, repeated, tag = "2")]
    response_parameters: Vec<ResponseParameters>,
    #[prost(message, optional, tag = "3")]
    payload: Option<Payload>,
    #[prost(message, optional, tag = "7")]
    response_status: Option<EchoStatus>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Outcome {
    let arguments: Vec<String> = std::env::args().collect();
    let [_, case, address] = arguments.as_slice() else {
        return Err("usage: interop CASE HOST:PORT".into());
    };
    let channel = Endpoint::new(format!("http://{address}"))?.connect().await?;
    let client = Client { grpc: Grpc::new(channel).max_decoding_message_size(1 << 24) };
    match case.as_str() {
        "empty_unary" => empty_unary(client).await,
        "large_unary" => large_unary(client).await,
        "client_streaming" => client_streaming(client).await,
        "server_streaming" => server_streaming(client).await,
        "ping_pong" => ping_pong(client).await,
        "empty_stream" => empty_stream(client).await,
        "cancel_after_begin" => cancel_after_begin(client).await,
        "cancel_after_first_response" => cancel_after_first_response(client).await,
        "timeout_on_sleeping_server" => timeout_on_sleeping_server(client).await,
        "status_code_and_message" => status_code_and_message(client).await,
        "special_status_message" => special_status_message(client).await,
        "unimplemented_method" => unimplemented(client, "TestService").await,
        "unimplemented_service" => unimplemented(client, "UnimplementedService").await,
        "custom_metadata" => custom_metadata(client).await,
        _ => Err(format!("no case {case}").into()),
    }
}

struct Client {
    grpc: Grpc<Channel>,
}

impl Client {
    async fn unary<M, R>(&mut self, path: &str, request: Request<M>) -> Result<Response<R>, Status>
    where
        M: Message + 'static,
        R: Message + Default + 'static,
    {
        self.ready().await?;
        self.grpc.unary(request, at(path), ProstCodec::<M, R>::default()).await
    }

    async fn duplex(
        &mut self,
        requests: Request<ReceiverStream<StreamingRequest>>,
    ) -> Result<Response<Streaming<PayloadMessage>>, Status> {
        self.ready().await?;
        let codec = ProstCodec::<StreamingRequest, PayloadMessage>::default();
        self.grpc.streaming(requests, at("TestService/FullDuplexCall"), codec).await
    }

    async fn ready(&mut self) -> Result<(), Status> {
        self.grpc.ready().await.map_err(|error| Status::unknown(error.to_string()))
    }
}

fn at(path: &str) -> PathAndQuery {
    format!("/grpc.testing.{path}").parse().expect("a path")
}

fn zeros(size: usize) -> Option<Payload> {
    Some(Payload { kind: 0, body: vec![0; size] })
}

fn asking(size: i32, payload: usize) -> StreamingRequest {
    StreamingRequest {
        response_parameters: vec![ResponseParameters { size }],
        payload: zeros(payload),
        response_status: None,
    }
}

fn body(message: Option<PayloadMessage>) -> Option<usize> {
    Some(message?.payload?.body.len())
}

fn expect<T: PartialEq + std::fmt::Debug>(got: T, expected: T) -> Outcome {
    if got == expected {
        return Ok(());
    }
    Err(format!("got {got:?}, expected {expected:?}").into())
}

fn failed<T>(outcome: Result<T, Status>) -> Result<Status, Box<dyn Error>> {
    outcome.err().ok_or_else(|| "the call did not fail".into())
}

async fn empty_unary(mut client: Client) -> Outcome {
    let answer = client.unary("TestService/EmptyCall", Request::new(Empty {})).await?;
    expect(answer.into_inner(), Empty {})
}

async fn large_unary(mut client: Client) -> Outcome {
    let request =
        SimpleRequest { response_size: 314_159, payload: zeros(271_828), response_status: None };
    let answer = client.unary("TestService/UnaryCall", Request::new(request)).await?;
    expect(body(Some(answer.into_inner())), Some(314_159))
}

async fn client_streaming(mut client: Client) -> Outcome {
    let requests = SIZES.map(|(_, size)| PayloadMessage { payload: zeros(size) });
    let codec = ProstCodec::<PayloadMessage, StreamingInputResponse>::default();
    client.ready().await?;
    let requests = Request::new(tokio_stream::iter(requests));
    let path = at("TestService/StreamingInputCall");
    let answer = client.grpc.client_streaming(requests, path, codec).await?;
    expect(answer.into_inner().aggregated_payload_size, 74922)
}

async fn server_streaming(mut client: Client) -> Outcome {
    let response_parameters = SIZES.map(|(size, _)| ResponseParameters { size }).to_vec();
    let request = StreamingRequest { response_parameters, ..StreamingRequest::default() };
    let codec = ProstCodec::<StreamingRequest, PayloadMessage>::default();
    client.ready().await?;
    let path = at("TestService/StreamingOutputCall");
    let answers = client.grpc.server_streaming(Request::new(request), path, codec).await?;
    let mut answers = answers.into_inner();
    for (size, _) in SIZES {
        expect(body(answers.message().await?), usize::try_from(size).ok())?;
    }
    expect(answers.message().await?, None)
}

async fn ping_pong(mut client: Client) -> Outcome {
    let (sender, requests) = mpsc::channel(1);
    sender.send(asking(SIZES[0].0, SIZES[0].1)).await?;
    let answers = client.duplex(Request::new(ReceiverStream::new(requests))).await?;
    let mut answers = answers.into_inner();
    for (index, (size, _)) in SIZES.iter().enumerate() {
        expect(body(answers.message().await?), usize::try_from(*size).ok())?;
        if let Some((size, payload)) = SIZES.get(index + 1) {
            sender.send(asking(*size, *payload)).await?;
        }
    }
    drop(sender);
    expect(answers.message().await?, None)
}

async fn empty_stream(mut client: Client) -> Outcome {
    let (_, requests) = mpsc::channel(1);
    let answers = client.duplex(Request::new(ReceiverStream::new(requests))).await?;
    expect(answers.into_inner().message().await?, None)
}

// tonic cancels a call by dropping it; what is to be seen is that the connection goes on.
async fn cancel_after_begin(mut client: Client) -> Outcome {
    let (_sender, requests) = mpsc::channel(1);
    let call = client.duplex(Request::new(ReceiverStream::new(requests)));
    expect(tokio::time::timeout(Duration::from_millis(50), call).await.is_err(), true)?;
    empty_unary(client).await
}

async fn cancel_after_first_response(mut client: Client) -> Outcome {
    let (sender, requests) = mpsc::channel(1);
    sender.send(asking(31415, 27182)).await?;
    let answers = client.duplex(Request::new(ReceiverStream::new(requests))).await?;
    let mut answers = answers.into_inner();
    expect(body(answers.message().await?), Some(31415))?;
    drop(answers);
    drop(sender);
    empty_unary(client).await
}

async fn timeout_on_sleeping_server(mut client: Client) -> Outcome {
    let (sender, requests) = mpsc::channel(1);
    sender.send(asking(0, 27182)).await?;
    let mut request = Request::new(ReceiverStream::new(requests));
    request.set_timeout(Duration::from_millis(20));
    let answers = client.duplex(request).await;
    let status = match answers {
        Err(status) => status,
        Ok(answers) => {
            let mut answers = answers.into_inner();
            loop {
                match answers.message().await {
                    Ok(Some(_)) => {}
                    Ok(None) => return Err("the stream ended well".into()),
                    Err(status) => break status,
                }
            }
        }
    };
    // tonic's own timer may be first, and calls it cancelled.
    let is_timeout = matches!(status.code(), Code::DeadlineExceeded | Code::Cancelled);
    expect((is_timeout, status.code()), (true, status.code()))
}

async fn status_code_and_message(mut client: Client) -> Outcome {
    let wanted = EchoStatus { code: 2, message: "test status message".to_owned() };
    let request =
        SimpleRequest { response_status: Some(wanted.clone()), ..SimpleRequest::default() };
    let answer =
        client.unary::<_, PayloadMessage>("TestService/UnaryCall", Request::new(request)).await;
    let status = failed(answer)?;
    expect((status.code(), status.message()), (Code::Unknown, "test status message"))?;
    let (sender, requests) = mpsc::channel(1);
    sender
        .send(StreamingRequest { response_status: Some(wanted), ..StreamingRequest::default() })
        .await?;
    let status = match client.duplex(Request::new(ReceiverStream::new(requests))).await {
        Err(status) => status,
        Ok(answers) => failed(answers.into_inner().message().await)?,
    };
    expect((status.code(), status.message()), (Code::Unknown, "test status message"))
}

async fn special_status_message(mut client: Client) -> Outcome {
    let wanted = EchoStatus { code: 2, message: SPECIAL.to_owned() };
    let request = SimpleRequest { response_status: Some(wanted), ..SimpleRequest::default() };
    let answer =
        client.unary::<_, PayloadMessage>("TestService/UnaryCall", Request::new(request)).await;
    let status = failed(answer)?;
    expect((status.code(), status.message()), (Code::Unknown, SPECIAL))
}

async fn unimplemented(mut client: Client, service: &str) -> Outcome {
    let path = format!("{service}/UnimplementedCall");
    let status = failed(client.unary::<_, Empty>(&path, Request::new(Empty {})).await)?;
    expect(status.code(), Code::Unimplemented)
}

async fn custom_metadata(mut client: Client) -> Outcome {
    let trailing: &[u8] = b"\x0a\x0b\x0a\x0b\x0a\x0b";
    let mut request = Request::new(SimpleRequest { response_size: 1, ..SimpleRequest::default() });
    request.metadata_mut().insert(ECHO_INITIAL, "test_initial_metadata_value".parse()?);
    request.metadata_mut().insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(trailing));
    // Of a unary call, tonic gives both kinds in one map.
    let answer = client.unary::<_, PayloadMessage>("TestService/UnaryCall", request).await?;
    let initial = answer.metadata().get(ECHO_INITIAL).map(|value| value.to_str().unwrap_or(""));
    expect(initial, Some("test_initial_metadata_value"))?;
    let got = answer.metadata().get_bin(ECHO_TRAILING).map(|value| value.to_bytes());
    expect(got.transpose()?.as_deref(), Some(trailing))?;

    let (sender, requests) = mpsc::channel(1);
    sender.send(asking(1, 1)).await?;
    drop(sender);
    let mut request = Request::new(ReceiverStream::new(requests));
    request.metadata_mut().insert(ECHO_INITIAL, "test_initial_metadata_value".parse()?);
    request.metadata_mut().insert_bin(ECHO_TRAILING, MetadataValue::from_bytes(trailing));
    let answers = client.duplex(request).await?;
    let initial = answers.metadata().get(ECHO_INITIAL).map(|value| value.to_str().unwrap_or(""));
    expect(initial, Some("test_initial_metadata_value"))?;
    let mut answers = answers.into_inner();
    while answers.message().await?.is_some() {}
    let trailers = answers.trailers().await?.unwrap_or_default();
    let got = trailers.get_bin(ECHO_TRAILING).map(|value| value.to_bytes());
    expect(got.transpose()?.as_deref(), Some(trailing))
}
