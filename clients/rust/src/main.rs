//! A complete client of the Open Inference Protocol with tonic: client ADDRESS [MODEL]
//!
//! ADDRESS is HOST:PORT or unix:PATH. MODEL adds and subtracts two INT32 tensors, as Triton's
//! `simple` does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a step; the
//! exit code is 0 only if every answer was right.

use std::process::ExitCode;
use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, Channel, ClientTlsConfig, Endpoint};
use tonic::{Code, Request, Status};

use health::health_check_response::ServingStatus;
use health::health_client::HealthClient;
use health::HealthCheckRequest;
use inference::grpc_inference_service_client::GrpcInferenceServiceClient;
use inference::model_infer_request::InferInputTensor;
use inference::model_metadata_response::TensorMetadata;
use inference::{
    ModelInferRequest, ModelInferResponse, ModelMetadataRequest, ServerMetadataRequest,
};

mod inference {
    tonic::include_proto!("inference");
}

mod health {
    tonic::include_proto!("grpc.health.v1");
}

const DEADLINE: Duration = Duration::from_secs(10);
const IN_FLIGHT: i32 = 100;
const MAX_MESSAGE_BYTES: usize = 64 << 20; // tonic receives no more than 4 MiB by default
const UNKNOWN_MODEL: &str = "no_such_model";

enum Failure {
    Refused(Status),
    Wrong(String), // the server answered, but not what was expected
}

type Outcome<T = ()> = Result<T, Failure>;

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    let mut arguments: Vec<String> = std::env::args().skip(1).collect();
    let mut ca = None; // TLS: PEM file of the authority
    if arguments.len() > 1 && arguments[0] == "--ca" {
        ca = arguments.drain(..2).nth(1);
    }
    let (address, model) = match arguments.as_slice() {
        [address] => (address, "simple"),
        [address, model] => (address, model.as_str()),
        _ => {
            eprintln!("usage: client [--ca FILE] ADDRESS [MODEL]");
            return ExitCode::from(2);
        }
    };
    match run(address, model, ca.as_deref()).await {
        Ok(()) => ExitCode::SUCCESS,
        Err(Failure::Refused(status)) => {
            eprintln!("error: {:?}: {}", status.code(), status.message());
            ExitCode::FAILURE
        }
        Err(Failure::Wrong(text)) => {
            eprintln!("error: {text}");
            ExitCode::FAILURE
        }
    }
}

async fn run(address: &str, model: &str, ca: Option<&str>) -> Outcome {
    let channel = connect(address, ca).map_err(|error| Failure::Wrong(error.to_string()))?;
    let inference = GrpcInferenceServiceClient::new(channel.clone())
        .max_decoding_message_size(MAX_MESSAGE_BYTES);
    check_health(HealthClient::new(channel)).await?;
    let mut client = Client { inference, model: model.to_owned(), shape: Vec::new() };
    client.show_server().await?;
    client.show_model().await?;
    client.infer_once().await?;
    client.infer_stream().await?;
    client.refused_call().await?;
    client.refused_in_stream().await
}

/// Prepares a channel, with TLS if the certificate of an authority is given. It connects when the
/// first call is made.
fn connect(address: &str, ca: Option<&str>) -> Result<Channel, Box<dyn std::error::Error>> {
    let endpoint = match (address.starts_with("unix:"), ca) {
        (true, _) => Endpoint::new(address.to_owned())?,
        (false, None) => Endpoint::new(format!("http://{address}"))?,
        (false, Some(file)) => {
            let authority = Certificate::from_pem(std::fs::read(file)?);
            Endpoint::new(format!("https://{address}"))?
                .tls_config(ClientTlsConfig::new().ca_certificate(authority))?
        }
    };
    Ok(endpoint.connect_timeout(DEADLINE).connect_lazy())
}

/// A message with a deadline that begins now. The server is told, and ends the call in time.
fn timely<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    request.set_timeout(DEADLINE);
    request
}

/// Asks the standard health service; the empty name stands for the server as a whole.
async fn check_health(mut client: HealthClient<Channel>) -> Outcome {
    let question = HealthCheckRequest { service: String::new() };
    let status = client.check(timely(question)).await?.into_inner().status();
    ensure(status == ServingStatus::Serving, || {
        format!("health is {}, expected SERVING", status.as_str_name())
    })?;
    println!("health: {}", status.as_str_name());
    Ok(())
}

struct Client {
    inference: GrpcInferenceServiceClient<Channel>,
    model: String,
    shape: Vec<i64>, // of an input, with a batch of 1; show_model sets it
}

impl Client {
    async fn show_server(&mut self) -> Outcome {
        let answer = self.inference.server_metadata(timely(ServerMetadataRequest {})).await?;
        let server = answer.into_inner();
        println!("server: {} {}", server.name, server.version);
        Ok(())
    }

    /// Prints the signature of the model and keeps the shape of its inputs.
    async fn show_model(&mut self) -> Outcome {
        let question = ModelMetadataRequest { name: self.model.clone(), version: String::new() };
        let metadata = self.inference.model_metadata(timely(question)).await?.into_inner();
        let taken: Vec<_> =
            metadata.inputs.iter().map(|t| (t.name.as_str(), t.datatype.as_str())).collect();
        let wanted = [("INPUT0", "INT32"), ("INPUT1", "INT32")];
        ensure(taken == wanted, || {
            format!("{} takes {taken:?}, this client knows {wanted:?}", self.model)
        })?;
        let (inputs, outputs) = (signature(&metadata.inputs), signature(&metadata.outputs));
        println!("model: {}: {inputs} -> {outputs}", metadata.name);
        let shape = &metadata.inputs[0].shape;
        self.shape = shape.iter().map(|&extent| extent.max(1)).collect(); // -1 is any batch size
        Ok(())
    }

    /// Sends one request and checks every value of the answer.
    async fn infer_once(&mut self) -> Outcome {
        let request = self.request("single", &self.model, 0);
        let answer = self.inference.model_infer(timely(request)).await?;
        self.check(answer.get_ref(), "single", 0)?;
        let count = self.size();
        println!("unary: {count} sums and {count} differences are right");
        Ok(())
    }

    /// Sends many requests on one stream without waiting, and reads the answers as they come.
    async fn infer_stream(&mut self) -> Outcome {
        // tonic takes the requests as fast as the server lets it, while the loop below reads.
        let requests: Vec<_> = (0..IN_FLIGHT)
            .map(|number| self.request(&number.to_string(), &self.model, number))
            .collect();
        let requests = tokio_stream::iter(requests);
        let mut answers = self.inference.model_stream_infer(timely(requests)).await?.into_inner();
        let mut number = 0;
        while let Some(answer) = answers.message().await? {
            ensure(answer.error_message.is_empty(), || {
                format!("request {number}: {}", answer.error_message)
            })?;
            let response = answer.infer_response.unwrap_or_default();
            self.check(&response, &number.to_string(), number)?;
            number += 1;
        }
        ensure(number == IN_FLIGHT, || format!("{number} answers, expected {IN_FLIGHT}"))?;
        println!("stream: {number} answers in order, all right");
        Ok(())
    }

    /// Asks for a model that is not there: a call fails with a code and a text.
    async fn refused_call(&mut self) -> Outcome {
        let request = self.request("single", UNKNOWN_MODEL, 0);
        match self.inference.model_infer(timely(request)).await {
            Err(status) if status.code() == Code::NotFound => {
                println!("refused call: {:?}: {}", status.code(), status.message());
                Ok(())
            }
            Err(status) => Err(status.into()),
            Ok(_) => {
                Err(Failure::Wrong(format!("{UNKNOWN_MODEL} gave an answer, expected NotFound")))
            }
        }
    }

    /// Asks for it in a stream: the error is a message there, and the stream stays open.
    async fn refused_in_stream(&mut self) -> Outcome {
        let (sender, requests) = mpsc::channel(2);
        let gone = |_| Failure::Wrong("the stream takes no more requests".to_owned());
        let requests = timely(ReceiverStream::new(requests));
        sender.send(self.request("bad", UNKNOWN_MODEL, 1)).await.map_err(gone)?;
        let mut answers = self.inference.model_stream_infer(requests).await?.into_inner();

        let refusal = answers.message().await?.unwrap_or_default();
        let id = refusal.infer_response.unwrap_or_default().id;
        ensure(id == "bad", || format!("the refusal has id {id}"))?;
        ensure(!refusal.error_message.is_empty(), || {
            format!("{UNKNOWN_MODEL} gave no error in the stream")
        })?;
        println!("refused in a stream: {}", refusal.error_message);

        sender.send(self.request("good", &self.model, 2)).await.map_err(gone)?;
        let answer = answers.message().await?.unwrap_or_default();
        self.check(&answer.infer_response.unwrap_or_default(), "good", 2)?;
        drop(sender); // no more: the server ends the stream when all are answered
        ensure(answers.message().await?.is_none(), || "the stream gave a third answer".to_owned())?;
        println!("the stream went on");
        Ok(())
    }

    /// A request with raw tensors: one little-endian block of bytes an input, in order.
    fn request(&self, id: &str, model: &str, seed: i32) -> ModelInferRequest {
        let tensor = |name: &str| InferInputTensor {
            name: name.to_owned(),
            datatype: "INT32".to_owned(),
            shape: self.shape.clone(),
            ..Default::default()
        };
        let (left, right) = self.operands(seed);
        ModelInferRequest {
            model_name: model.to_owned(),
            id: id.to_owned(),
            inputs: vec![tensor("INPUT0"), tensor("INPUT1")],
            raw_input_contents: vec![to_bytes(&left), to_bytes(&right)],
            ..Default::default()
        }
    }

    /// Compares an answer with what the model is known to compute.
    fn check(&self, response: &ModelInferResponse, id: &str, seed: i32) -> Outcome {
        ensure(response.id == id, || {
            format!("the answer has id {:?}, expected {id:?}", response.id)
        })?;
        let (left, right) = self.operands(seed);
        let pairs = || left.iter().zip(&right);
        let sums: Vec<i32> = pairs().map(|(a, b)| a + b).collect();
        let differences: Vec<i32> = pairs().map(|(a, b)| a - b).collect();
        for (name, expected) in [("OUTPUT0", sums), ("OUTPUT1", differences)] {
            let place = response.outputs.iter().position(|tensor| tensor.name == name);
            let raw = place.and_then(|place| response.raw_output_contents.get(place));
            let got = raw.map(|bytes| from_bytes(bytes)).unwrap_or_default();
            ensure(got == expected, || format!("{id}: {name} is {got:?}, expected {expected:?}"))?;
        }
        Ok(())
    }

    /// INPUT0 and INPUT1 of a request: numbers that differ between seeds.
    fn operands(&self, seed: i32) -> (Vec<i32>, Vec<i32>) {
        (0..self.size()).map(|i| (i + seed, i * i - 50)).unzip()
    }

    fn size(&self) -> i32 {
        self.shape.iter().product::<i64>() as i32
    }
}

fn to_bytes(values: &[i32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

fn from_bytes(bytes: &[u8]) -> Vec<i32> {
    let (values, _) = bytes.as_chunks::<4>();
    values.iter().map(|&value| i32::from_le_bytes(value)).collect()
}

fn signature(tensors: &[TensorMetadata]) -> String {
    let text = |tensor: &TensorMetadata| {
        let shape: Vec<String> = tensor.shape.iter().map(i64::to_string).collect();
        format!("{} {}[{}]", tensor.name, tensor.datatype, shape.join(","))
    };
    tensors.iter().map(text).collect::<Vec<_>>().join(", ")
}

fn ensure(condition: bool, otherwise: impl FnOnce() -> String) -> Outcome {
    if condition {
        Ok(())
    } else {
        Err(Failure::Wrong(otherwise()))
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        Failure::Refused(status)
    }
}
