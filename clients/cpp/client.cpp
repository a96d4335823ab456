// A complete client of the Open Inference Protocol with grpc++: client ADDRESS [MODEL]
//
// ADDRESS is HOST:PORT or unix:PATH. MODEL adds and subtracts two INT32 tensors, as Triton's
// `simple` does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a step; the
// exit code is 0 only if every answer was right.

#include <algorithm>
#include <chrono>
#include <cstdint>
#include <cstdlib>
#include <fstream>
#include <iostream>
#include <memory>
#include <sstream>
#include <stdexcept>
#include <string>
#include <thread>
#include <utility>
#include <vector>

#include <grpcpp/grpcpp.h>

#include "grpc_service.grpc.pb.h"
#include "health.grpc.pb.h"

namespace {

using grpc::health::v1::Health;
using grpc::health::v1::HealthCheckRequest;
using grpc::health::v1::HealthCheckResponse;
using inference::GRPCInferenceService;
using inference::ModelInferRequest;
using inference::ModelInferResponse;
using inference::ModelMetadataResponse;
using inference::ModelStreamInferResponse;

constexpr std::chrono::seconds kDeadline{10};
constexpr int kInFlight = 100;
constexpr int kMaxMessageBytes = 64 << 20;  // gRPC receives no more than 4 MiB by default
constexpr char kUnknownModel[] = "no_such_model";

using Values = std::vector<std::int32_t>;

// The server refused a call, or answered something that was not expected.
struct Failure : std::runtime_error {
  using std::runtime_error::runtime_error;
};

template <typename... Parts>
std::string text(const Parts&... parts) {
  std::ostringstream out;
  (out << ... << parts);
  return out.str();
}

template <typename... Parts>
void require(bool condition, const Parts&... otherwise) {
  if (!condition) throw Failure(text(otherwise...));
}

std::string name(grpc::StatusCode code) {
  switch (code) {  // grpc++ has no names for its codes
    case grpc::StatusCode::DEADLINE_EXCEEDED: return "DEADLINE_EXCEEDED";
    case grpc::StatusCode::INVALID_ARGUMENT: return "INVALID_ARGUMENT";
    case grpc::StatusCode::NOT_FOUND: return "NOT_FOUND";
    case grpc::StatusCode::RESOURCE_EXHAUSTED: return "RESOURCE_EXHAUSTED";
    case grpc::StatusCode::UNAVAILABLE: return "UNAVAILABLE";
    default: return "code " + std::to_string(code);
  }
}

std::string describe(const grpc::Status& status) {
  return name(status.error_code()) + ": " + status.error_message();
}

void require_ok(const grpc::Status& status) { require(status.ok(), describe(status)); }

// A context has a deadline that begins now, and serves one call.
struct Context : grpc::ClientContext {
  Context() { set_deadline(std::chrono::system_clock::now() + kDeadline); }
};

std::string listing(const Values& values) {
  std::string list;
  for (std::int32_t value : values) list += (list.empty() ? "" : " ") + std::to_string(value);
  return list;
}

// Byte by byte, so that it is right on machines of either byte order.
std::string to_bytes(const Values& values) {
  std::string bytes;
  for (std::int32_t value : values) {
    for (int shift = 0; shift < 32; shift += 8) {
      bytes += static_cast<char>(static_cast<std::uint32_t>(value) >> shift);
    }
  }
  return bytes;
}

Values from_bytes(const std::string& bytes) {
  Values values(bytes.size() / 4);
  for (std::size_t i = 0; i < values.size(); ++i) {
    std::uint32_t bits = 0;
    for (int part = 3; part >= 0; --part) {
      bits = bits << 8 | static_cast<unsigned char>(bytes[4 * i + part]);
    }
    values[i] = static_cast<std::int32_t>(bits);
  }
  return values;
}

template <typename Tensors>
std::string signature(const Tensors& tensors) {
  std::string list;
  for (const auto& tensor : tensors) {
    std::string shape;
    for (std::int64_t extent : tensor.shape()) {
      shape += (shape.empty() ? "" : ",") + std::to_string(extent);
    }
    list += text(list.empty() ? "" : ", ", tensor.name(), " ", tensor.datatype(), "[", shape, "]");
  }
  return list;
}

class Client {
 public:
  Client(const std::shared_ptr<grpc::Channel>& channel, std::string model)
      : health_(Health::NewStub(channel)),
        inference_(GRPCInferenceService::NewStub(channel)),
        model_(std::move(model)) {}

  void take_every_step() {
    check_health();
    show_server();
    show_model();
    infer_once();
    infer_stream();
    refused_call();
    refused_in_stream();
  }

 private:
  // Asks the standard health service; the empty name stands for the server as a whole.
  void check_health() {
    Context context;
    HealthCheckRequest question;
    HealthCheckResponse answer;
    question.set_service("");
    require_ok(health_->Check(&context, question, &answer));
    const std::string status = HealthCheckResponse::ServingStatus_Name(answer.status());
    require(answer.status() == HealthCheckResponse::SERVING, "health is ", status,
            ", expected SERVING");
    std::cout << "health: " << status << std::endl;
  }

  void show_server() {
    Context context;
    inference::ServerMetadataResponse server;
    require_ok(inference_->ServerMetadata(&context, {}, &server));
    std::cout << "server: " << server.name() << " " << server.version() << std::endl;
  }

  // Prints the signature of the model and keeps the shape of its inputs.
  void show_model() {
    Context context;
    inference::ModelMetadataRequest question;
    ModelMetadataResponse metadata;
    question.set_name(model_);
    require_ok(inference_->ModelMetadata(&context, question, &metadata));
    const std::string inputs = signature(metadata.inputs());
    const bool is_known = metadata.inputs_size() == 2 &&
                          inputs.find("INPUT0 INT32[") != std::string::npos &&
                          inputs.find("INPUT1 INT32[") != std::string::npos;
    require(is_known, model_, " takes ", inputs, ", this client knows INPUT0 INT32, INPUT1 INT32");
    std::cout << "model: " << metadata.name() << ": " << inputs << " -> "
              << signature(metadata.outputs()) << std::endl;
    for (std::int64_t extent : metadata.inputs(0).shape()) {
      shape_.push_back(std::max<std::int64_t>(extent, 1));  // -1 is any batch size
    }
  }

  // Sends one request and checks every value of the answer.
  void infer_once() {
    Context context;
    ModelInferResponse response;
    require_ok(inference_->ModelInfer(&context, request("single", model_, 0), &response));
    check(response, "single", 0);
    std::cout << "unary: " << size() << " sums and " << size() << " differences are right"
              << std::endl;
  }

  // Sends many requests on one stream without waiting, and reads the answers as they come.
  void infer_stream() {
    Context context;
    const auto stream = inference_->ModelStreamInfer(&context);
    std::thread sender([&] {
      for (int number = 0; number < kInFlight; ++number) {
        // Write waits while the server is busy. Of a broken stream, Finish tells why.
        if (!stream->Write(request(std::to_string(number), model_, number))) return;
      }
      stream->WritesDone();
    });
    int count = 0;
    std::string wrong;
    ModelStreamInferResponse answer;
    while (stream->Read(&answer)) {
      if (wrong.empty()) wrong = fault(answer, count);
      ++count;
    }
    sender.join();
    require_ok(stream->Finish());
    require(wrong.empty(), wrong);
    require(count == kInFlight, count, " answers, expected ", kInFlight);
    std::cout << "stream: " << count << " answers in order, all right" << std::endl;
  }

  // Asks for a model that is not there: a call fails with a code and a text.
  void refused_call() {
    Context context;
    ModelInferResponse response;
    const auto status =
        inference_->ModelInfer(&context, request("single", kUnknownModel, 0), &response);
    require(status.error_code() == grpc::StatusCode::NOT_FOUND, kUnknownModel, " gave ",
            describe(status), ", expected NOT_FOUND");
    std::cout << "refused call: " << describe(status) << std::endl;
  }

  // Asks for it in a stream: the error is a message there, and the stream stays open.
  void refused_in_stream() {
    Context context;
    const auto stream = inference_->ModelStreamInfer(&context);
    ModelStreamInferResponse answer;
    stream->Write(request("bad", kUnknownModel, 1));
    if (!stream->Read(&answer)) require_ok(stream->Finish());
    require(answer.infer_response().id() == "bad" && !answer.error_message().empty(),
            kUnknownModel, " gave no error in the stream, but ", answer.ShortDebugString());
    std::cout << "refused in a stream: " << answer.error_message() << std::endl;

    stream->Write(request("good", model_, 2));
    if (!stream->Read(&answer)) require_ok(stream->Finish());
    require(answer.error_message().empty(), answer.error_message());
    check(answer.infer_response(), "good", 2);
    stream->WritesDone();  // no more: the server ends the stream when all are answered
    require(!stream->Read(&answer), "the stream gave a third answer");
    require_ok(stream->Finish());
    std::cout << "the stream went on" << std::endl;
  }

  // What is wrong with an answer of the stream, or nothing.
  std::string fault(const ModelStreamInferResponse& answer, int number) const {
    try {
      require(answer.error_message().empty(), "request ", number, ": ", answer.error_message());
      check(answer.infer_response(), std::to_string(number), number);
      return "";
    } catch (const Failure& failure) {
      return failure.what();
    }
  }

  // A request with raw tensors: one little-endian block of bytes an input, in order.
  ModelInferRequest request(const std::string& id, const std::string& model, int seed) const {
    ModelInferRequest request;
    request.set_model_name(model);
    request.set_id(id);
    for (const char* input : {"INPUT0", "INPUT1"}) {
      auto* tensor = request.add_inputs();
      tensor->set_name(input);
      tensor->set_datatype("INT32");
      for (std::int64_t extent : shape_) tensor->add_shape(extent);
    }
    const auto [left, right] = operands(seed);
    request.add_raw_input_contents(to_bytes(left));
    request.add_raw_input_contents(to_bytes(right));
    return request;
  }

  // Compares an answer with what the model is known to compute.
  void check(const ModelInferResponse& response, const std::string& id, int seed) const {
    require(response.id() == id, "the answer has id ", response.id(), ", expected ", id);
    require(response.outputs_size() == 2 && response.raw_output_contents_size() == 2, id, ": ",
            response.outputs_size(), " outputs, ", response.raw_output_contents_size(),
            " with raw contents");
    const auto [left, right] = operands(seed);
    Values sums, differences;
    for (std::size_t i = 0; i < left.size(); ++i) {
      sums.push_back(left[i] + right[i]);
      differences.push_back(left[i] - right[i]);
    }
    check_output(response, "OUTPUT0", sums);
    check_output(response, "OUTPUT1", differences);
  }

  static void check_output(const ModelInferResponse& response, const std::string& name,
                           const Values& expected) {
    Values got;
    for (int i = 0; i < response.outputs_size(); ++i) {
      if (response.outputs(i).name() == name) got = from_bytes(response.raw_output_contents(i));
    }
    require(got == expected, response.id(), ": ", name, " is [", listing(got), "], expected [",
            listing(expected), "]");
  }

  // INPUT0 and INPUT1 of a request: numbers that differ between seeds.
  std::pair<Values, Values> operands(int seed) const {
    Values left, right;
    for (std::int32_t i = 0; i < size(); ++i) {
      left.push_back(i + seed);
      right.push_back(i * i - 50);
    }
    return {left, right};
  }

  std::int32_t size() const {
    std::int64_t product = 1;
    for (std::int64_t extent : shape_) product *= extent;
    return static_cast<std::int32_t>(product);
  }

  std::unique_ptr<Health::Stub> health_;
  std::unique_ptr<GRPCInferenceService::Stub> inference_;
  std::string model_;
  std::vector<std::int64_t> shape_;  // of an input, with a batch of 1; show_model sets it
};

// Opens a channel, with TLS if the PEM file of an authority is given.
std::shared_ptr<grpc::Channel> connect(const std::string& address, const std::string& ca) {
  auto credentials = grpc::InsecureChannelCredentials();
  if (!ca.empty()) {
    std::ifstream file(ca);
    require(file.good(), ca, " cannot be read");
    std::stringstream pem;
    pem << file.rdbuf();
    grpc::SslCredentialsOptions options;
    options.pem_root_certs = pem.str();
    credentials = grpc::SslCredentials(options);
  }
  grpc::ChannelArguments arguments;
  arguments.SetMaxReceiveMessageSize(kMaxMessageBytes);
  return grpc::CreateCustomChannel(address, credentials, arguments);
}

}  // namespace

int main(int argc, char** argv) {
  std::vector<std::string> arguments(argv + 1, argv + argc);
  std::string ca;  // TLS: PEM file of the authority
  if (arguments.size() > 1 && arguments[0] == "--ca") {
    ca = arguments[1];
    arguments.erase(arguments.begin(), arguments.begin() + 2);
  }
  if (arguments.empty() || arguments.size() > 2) {
    std::cerr << "usage: client [--ca FILE] ADDRESS [MODEL]" << std::endl;
    return 2;
  }
  try {
    Client(connect(arguments[0], ca), arguments.size() > 1 ? arguments[1] : "simple")
        .take_every_step();
  } catch (const Failure& failure) {
    std::cerr << "error: " << failure.what() << std::endl;
    return EXIT_FAILURE;
  }
  return EXIT_SUCCESS;
}
