package example;

import com.google.protobuf.ByteString;
import io.grpc.ChannelCredentials;
import io.grpc.Grpc;
import io.grpc.InsecureChannelCredentials;
import io.grpc.ManagedChannel;
import io.grpc.Status;
import io.grpc.StatusException;
import io.grpc.TlsChannelCredentials;
import io.grpc.health.v1.HealthCheckRequest;
import io.grpc.health.v1.HealthCheckResponse.ServingStatus;
import io.grpc.health.v1.HealthGrpc;
import io.grpc.stub.BlockingClientCall;
import io.penstock.inference.GRPCInferenceServiceGrpc;
import io.penstock.inference.GRPCInferenceServiceGrpc.GRPCInferenceServiceBlockingV2Stub;
import io.penstock.inference.ModelInferRequest;
import io.penstock.inference.ModelInferRequest.InferInputTensor;
import io.penstock.inference.ModelInferResponse;
import io.penstock.inference.ModelMetadataRequest;
import io.penstock.inference.ModelMetadataResponse.TensorMetadata;
import io.penstock.inference.ModelStreamInferResponse;
import io.penstock.inference.ServerMetadataRequest;
import java.io.File;
import java.io.IOException;
import java.nio.ByteBuffer;
import java.nio.ByteOrder;
import java.time.Duration;
import java.util.ArrayDeque;
import java.util.Arrays;
import java.util.List;
import java.util.concurrent.TimeUnit;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * A complete client of the Open Inference Protocol with grpc-java: client ADDRESS [MODEL]
 *
 * <p>ADDRESS is HOST:PORT, or unix:PATH on Linux. MODEL adds and subtracts two INT32 tensors, as
 * Triton's `simple` does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a
 * step; the exit code is 0 only if every answer was right.
 */
public final class Client {
  private static final Duration DEADLINE = Duration.ofSeconds(10);
  private static final int IN_FLIGHT = 100;
  private static final int MAX_MESSAGE_BYTES = 64 << 20; // gRPC receives no more than 4 MiB by default
  private static final String UNKNOWN_MODEL = "no_such_model";

  private final ManagedChannel channel;
  private final String model;
  private List<Long> shape; // of an input, with a batch of 1; showModel sets it

  private Client(ManagedChannel channel, String model) {
    this.channel = channel;
    this.model = model;
  }

  public static void main(String[] args) throws InterruptedException {
    var arguments = new ArrayDeque<>(List.of(args));
    File ca = null;
    if ("--ca".equals(arguments.peek()) && arguments.size() > 1) {
      arguments.remove();
      ca = new File(arguments.remove()); // TLS: PEM file of the authority
    }
    if (arguments.isEmpty() || arguments.size() > 2 || arguments.peek().startsWith("-")) {
      System.err.println("usage: client [--ca FILE] ADDRESS [MODEL]");
      System.exit(2);
    }
    var address = arguments.remove();
    var model = arguments.isEmpty() ? "simple" : arguments.remove();
    System.exit(run(address, model, ca));
  }

  private static int run(String address, String model, File ca) throws InterruptedException {
    ManagedChannel channel = null;
    try {
      channel = connect(address, ca);
      new Client(channel, model).takeEveryStep();
      return 0;
    } catch (StatusException error) {
      System.err.println("error: " + describe(error));
    } catch (WrongAnswer | IOException error) {
      System.err.println("error: " + error.getMessage());
    } finally {
      if (channel != null) {
        channel.shutdownNow().awaitTermination(DEADLINE.toSeconds(), TimeUnit.SECONDS);
      }
    }
    return 1;
  }

  private static ManagedChannel connect(String address, File ca) throws IOException {
    var builder = Grpc.newChannelBuilder(address, credentials(ca))
        .maxInboundMessageSize(MAX_MESSAGE_BYTES);
    if (address.startsWith("unix:")) {
      builder.overrideAuthority("localhost"); // else the path, which HTTP/2 servers may refuse
    }
    return builder.build();
  }

  private static ChannelCredentials credentials(File ca) throws IOException {
    if (ca == null) {
      return InsecureChannelCredentials.create();
    }
    return TlsChannelCredentials.newBuilder().trustManager(ca).build();
  }

  private void takeEveryStep() throws StatusException, WrongAnswer, InterruptedException {
    checkHealth();
    showServer();
    showModel();
    inferOnce();
    inferStream();
    refusedCall();
    refusedInStream();
  }

  /** The service with a deadline that begins now: take a new one for each call. */
  private GRPCInferenceServiceBlockingV2Stub stub() {
    return GRPCInferenceServiceGrpc.newBlockingV2Stub(channel).withDeadlineAfter(DEADLINE);
  }

  /** Asks the standard health service; the empty name stands for the server as a whole. */
  private void checkHealth() throws StatusException, WrongAnswer {
    var status = HealthGrpc.newBlockingV2Stub(channel).withDeadlineAfter(DEADLINE)
        .check(HealthCheckRequest.newBuilder().setService("").build())
        .getStatus();
    require(status == ServingStatus.SERVING, "health is %s, expected SERVING", status);
    System.out.println("health: " + status);
  }

  private void showServer() throws StatusException {
    var server = stub().serverMetadata(ServerMetadataRequest.getDefaultInstance());
    System.out.printf("server: %s %s%n", server.getName(), server.getVersion());
  }

  /** Prints the signature of the model and keeps the shape of its inputs. */
  private void showModel() throws StatusException, WrongAnswer {
    var metadata = stub().modelMetadata(ModelMetadataRequest.newBuilder().setName(model).build());
    var taken = metadata.getInputsList().stream()
        .map(tensor -> tensor.getName() + " " + tensor.getDatatype())
        .toList();
    var wanted = List.of("INPUT0 INT32", "INPUT1 INT32");
    require(taken.equals(wanted), "%s takes %s, this client knows %s", model, taken, wanted);
    System.out.printf("model: %s: %s -> %s%n", metadata.getName(),
        signature(metadata.getInputsList()), signature(metadata.getOutputsList()));
    shape = metadata.getInputs(0).getShapeList().stream()
        .map(extent -> Math.max(extent, 1)) // -1 is any batch size
        .toList();
  }

  /** Sends one request and checks every value of the answer. */
  private void inferOnce() throws StatusException, WrongAnswer {
    check(stub().modelInfer(request("single", model, 0)), "single", 0);
    System.out.printf("unary: %1$d sums and %1$d differences are right%n", size());
  }

  /**
   * Sends many requests on one stream without waiting, and reads the answers as they come.
   *
   * <p>Of the ways that grpc-java has for streams, this one waits by itself where the other side is
   * slow. It is marked experimental; with a StreamObserver (newStub) that is the caller's to do.
   */
  private void inferStream() throws StatusException, WrongAnswer, InterruptedException {
    var stream = stub().modelStreamInfer();
    var sender = new Thread(() -> {
      try {
        for (int number = 0; number < IN_FLIGHT; number++) {
          stream.write(request(String.valueOf(number), model, number));
        }
        stream.halfClose();
      } catch (StatusException | InterruptedException broken) {
        // Of a broken stream, read() tells why.
      }
    });
    sender.start();
    for (int number = 0; number < IN_FLIGHT; number++) {
      check(next(stream).getInferResponse(), String.valueOf(number), number);
    }
    expectEnd(stream);
    sender.join();
    System.out.printf("stream: %d answers in order, all right%n", IN_FLIGHT);
  }

  /** Asks for a model that is not there: a call fails with a code and a text. */
  private void refusedCall() throws StatusException, WrongAnswer {
    try {
      stub().modelInfer(request("single", UNKNOWN_MODEL, 0));
    } catch (StatusException refusal) {
      if (refusal.getStatus().getCode() != Status.Code.NOT_FOUND) {
        throw refusal;
      }
      System.out.println("refused call: " + describe(refusal));
      return;
    }
    throw new WrongAnswer(UNKNOWN_MODEL + " gave an answer, expected NOT_FOUND");
  }

  /** Asks for it in a stream: the error is a message there, and the stream stays open. */
  private void refusedInStream() throws StatusException, WrongAnswer, InterruptedException {
    var stream = stub().modelStreamInfer();
    stream.write(request("bad", UNKNOWN_MODEL, 1));
    var refusal = stream.read();
    require(refusal != null && refusal.getInferResponse().getId().equals("bad")
        && !refusal.getErrorMessage().isEmpty(),
        "%s gave no error in the stream, but %s", UNKNOWN_MODEL, refusal);
    System.out.println("refused in a stream: " + refusal.getErrorMessage());
    stream.write(request("good", model, 2));
    check(next(stream).getInferResponse(), "good", 2);
    stream.halfClose(); // no more: the server ends the stream when all are answered
    expectEnd(stream);
    System.out.println("the stream went on");
  }

  private static ModelStreamInferResponse next(
      BlockingClientCall<ModelInferRequest, ModelStreamInferResponse> stream)
      throws StatusException, WrongAnswer, InterruptedException {
    var answer = stream.read();
    require(answer != null, "the stream ended before every request was answered");
    require(answer.getErrorMessage().isEmpty(), "%s", answer.getErrorMessage());
    return answer;
  }

  private static void expectEnd(
      BlockingClientCall<ModelInferRequest, ModelStreamInferResponse> stream)
      throws StatusException, WrongAnswer, InterruptedException {
    require(stream.read() == null, "the stream gave more answers than requests");
  }

  /** A request with raw tensors: one little-endian block of bytes an input, in order. */
  private ModelInferRequest request(String id, String model, int seed) {
    var tensor = InferInputTensor.newBuilder().setDatatype("INT32").addAllShape(shape);
    return ModelInferRequest.newBuilder()
        .setModelName(model)
        .setId(id)
        .addInputs(tensor.setName("INPUT0").build())
        .addInputs(tensor.setName("INPUT1").build())
        .addRawInputContents(toBytes(left(seed)))
        .addRawInputContents(toBytes(right()))
        .build();
  }

  /** Compares an answer with what the model is known to compute. */
  private void check(ModelInferResponse response, String id, int seed) throws WrongAnswer {
    require(response.getId().equals(id), "the answer has id %s, expected %s", response.getId(), id);
    require(response.getOutputsCount() == 2 && response.getRawOutputContentsCount() == 2,
        "%s: %d outputs, %d with raw contents", id, response.getOutputsCount(),
        response.getRawOutputContentsCount());
    int[] left = left(seed);
    int[] right = right();
    checkOutput(response, "OUTPUT0", indices().map(i -> left[i] + right[i]).toArray());
    checkOutput(response, "OUTPUT1", indices().map(i -> left[i] - right[i]).toArray());
  }

  private static void checkOutput(ModelInferResponse response, String name, int[] expected)
      throws WrongAnswer {
    var names = response.getOutputsList().stream().map(tensor -> tensor.getName()).toList();
    require(names.contains(name), "%s: %s is not among %s", response.getId(), name, names);
    int[] got = fromBytes(response.getRawOutputContents(names.indexOf(name)));
    require(Arrays.equals(got, expected), "%s: %s is %s, expected %s", response.getId(), name,
        Arrays.toString(got), Arrays.toString(expected));
  }

  /** INPUT0 of a request: differs between seeds. */
  private int[] left(int seed) {
    return indices().map(i -> i + seed).toArray();
  }

  /** INPUT1 of every request. */
  private int[] right() {
    return indices().map(i -> i * i - 50).toArray();
  }

  private IntStream indices() {
    return IntStream.range(0, size());
  }

  private int size() {
    return shape.stream().mapToInt(Long::intValue).reduce(1, (a, b) -> a * b);
  }

  private static ByteString toBytes(int[] values) {
    var bytes = ByteBuffer.allocate(4 * values.length).order(ByteOrder.LITTLE_ENDIAN);
    bytes.asIntBuffer().put(values);
    return ByteString.copyFrom(bytes);
  }

  private static int[] fromBytes(ByteString bytes) {
    var values = new int[bytes.size() / 4];
    bytes.asReadOnlyByteBuffer().order(ByteOrder.LITTLE_ENDIAN).asIntBuffer().get(values);
    return values;
  }

  private static String signature(List<TensorMetadata> tensors) {
    return tensors.stream()
        .map(tensor -> "%s %s%s".formatted(tensor.getName(), tensor.getDatatype(),
            tensor.getShapeList().toString().replace(" ", "")))
        .collect(Collectors.joining(", "));
  }

  private static String describe(StatusException error) {
    var status = error.getStatus();
    var cause = status.getCause() == null ? "" : " (" + status.getCause().getMessage() + ")";
    return status.getCode() + ": " + status.getDescription() + cause;
  }

  private static void require(boolean condition, String otherwise, Object... values)
      throws WrongAnswer {
    if (!condition) {
      throw new WrongAnswer(otherwise.formatted(values));
    }
  }

  /** The server answered, but not what was expected. */
  private static final class WrongAnswer extends Exception {
    WrongAnswer(String message) {
      super(message);
    }
  }
}
