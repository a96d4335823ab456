// A complete client of the Open Inference Protocol with grpc-go: client ADDRESS [MODEL]
//
// ADDRESS is HOST:PORT or unix:PATH. MODEL adds and subtracts two INT32 tensors, as Triton's
// simple does: OUTPUT0 = INPUT0 + INPUT1, OUTPUT1 = INPUT0 - INPUT1. Prints a line a step; the
// exit code is 0 only if every answer was right.
package main

import (
	"context"
	"encoding/binary"
	"errors"
	"flag"
	"fmt"
	"io"
	"os"
	"slices"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/credentials/insecure"
	health "google.golang.org/grpc/health/grpc_health_v1"
	"google.golang.org/grpc/status"

	"example.com/client/inference"
)

const (
	deadline        = 10 * time.Second
	inFlight        = 100
	maxMessageBytes = 64 << 20 // gRPC receives no more than 4 MiB by default
	unknownModel    = "no_such_model"
)

type client struct {
	health    health.HealthClient
	inference inference.GRPCInferenceServiceClient
	model     string
	shape     []int64 // of an input, with a batch of 1; showModel sets it
}

func main() {
	ca := flag.String("ca", "", "TLS: PEM `file` of the authority")
	flag.Usage = func() {
		fmt.Fprintln(os.Stderr, "usage: client [--ca FILE] ADDRESS [MODEL]")
		flag.PrintDefaults()
	}
	flag.Parse()
	if flag.NArg() < 1 || flag.NArg() > 2 {
		flag.Usage()
		os.Exit(2)
	}
	model := "simple"
	if flag.NArg() == 2 {
		model = flag.Arg(1)
	}
	if err := run(flag.Arg(0), model, *ca); err != nil {
		fmt.Fprintln(os.Stderr, "error:", describe(err))
		os.Exit(1)
	}
}

func run(address, model, ca string) error {
	connection, err := connect(address, ca)
	if err != nil {
		return err
	}
	defer connection.Close()
	c := client{
		health:    health.NewHealthClient(connection),
		inference: inference.NewGRPCInferenceServiceClient(connection),
		model:     model,
	}
	steps := []func(context.Context) error{
		c.checkHealth, c.showServer, c.showModel, c.inferOnce, c.inferStream, c.refusedCall, c.refusedInStream,
	}
	for _, step := range steps {
		ctx, cancel := context.WithTimeout(context.Background(), deadline)
		err := step(ctx)
		cancel()
		if err != nil {
			return err
		}
	}
	return nil
}

// connect opens a channel, with TLS if the certificate of an authority is given.
func connect(address, ca string) (*grpc.ClientConn, error) {
	transport := insecure.NewCredentials()
	if ca != "" {
		var err error
		if transport, err = credentials.NewClientTLSFromFile(ca, ""); err != nil {
			return nil, err
		}
	}
	return grpc.NewClient(address,
		grpc.WithTransportCredentials(transport),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(maxMessageBytes)))
}

// checkHealth asks the standard health service; the empty name stands for the server as a whole.
func (c *client) checkHealth(ctx context.Context) error {
	answer, err := c.health.Check(ctx, &health.HealthCheckRequest{Service: ""})
	if err != nil {
		return err
	}
	if answer.Status != health.HealthCheckResponse_SERVING {
		return fmt.Errorf("health is %s, expected SERVING", answer.Status)
	}
	fmt.Println("health:", answer.Status)
	return nil
}

func (c *client) showServer(ctx context.Context) error {
	server, err := c.inference.ServerMetadata(ctx, &inference.ServerMetadataRequest{})
	if err != nil {
		return err
	}
	fmt.Println("server:", server.Name, server.Version)
	return nil
}

// showModel prints the signature of the model and keeps the shape of its inputs.
func (c *client) showModel(ctx context.Context) error {
	metadata, err := c.inference.ModelMetadata(ctx, &inference.ModelMetadataRequest{Name: c.model})
	if err != nil {
		return err
	}
	var taken []string
	for _, tensor := range metadata.Inputs {
		taken = append(taken, tensor.Name+" "+tensor.Datatype)
	}
	wanted := []string{"INPUT0 INT32", "INPUT1 INT32"}
	if !slices.Equal(taken, wanted) {
		return fmt.Errorf("%s takes %q, this client knows %q", c.model, taken, wanted)
	}
	fmt.Printf("model: %s: %s -> %s\n",
		metadata.Name, signature(metadata.Inputs), signature(metadata.Outputs))
	for _, extent := range metadata.Inputs[0].Shape {
		c.shape = append(c.shape, max(extent, 1)) // -1 is any batch size
	}
	return nil
}

// inferOnce sends one request and checks every value of the answer.
func (c *client) inferOnce(ctx context.Context) error {
	answer, err := c.inference.ModelInfer(ctx, c.request("single", c.model, 0))
	if err != nil {
		return err
	}
	if err := c.check(answer, "single", 0); err != nil {
		return err
	}
	fmt.Printf("unary: %[1]d sums and %[1]d differences are right\n", size(c.shape))
	return nil
}

// inferStream sends many requests on one stream without waiting, and reads the answers as they
// come.
func (c *client) inferStream(ctx context.Context) error {
	stream, err := c.inference.ModelStreamInfer(ctx)
	if err != nil {
		return err
	}
	go func() {
		for number := range int32(inFlight) {
			// Send waits while the server is busy. Of a broken stream, Recv tells why.
			if stream.Send(c.request(fmt.Sprint(number), c.model, number)) != nil {
				return
			}
		}
		stream.CloseSend()
	}()
	for number := range int32(inFlight) {
		answer, err := stream.Recv()
		if err != nil {
			return fmt.Errorf("answer %d: %w", number, err)
		}
		if answer.ErrorMessage != "" {
			return fmt.Errorf("request %d: %s", number, answer.ErrorMessage)
		}
		if err := c.check(answer.InferResponse, fmt.Sprint(number), number); err != nil {
			return err
		}
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream ended with %v", err)
	}
	fmt.Printf("stream: %d answers in order, all right\n", inFlight)
	return nil
}

// refusedCall asks for a model that is not there: a call fails with a code and a text.
func (c *client) refusedCall(ctx context.Context) error {
	_, err := c.inference.ModelInfer(ctx, c.request("single", unknownModel, 0))
	if err == nil {
		return fmt.Errorf("%s gave an answer, expected NotFound", unknownModel)
	}
	if status.Code(err) != codes.NotFound {
		return err
	}
	fmt.Println("refused call:", describe(err))
	return nil
}

// refusedInStream asks for it in a stream: the error is a message there, and the stream stays
// open.
func (c *client) refusedInStream(ctx context.Context) error {
	stream, err := c.inference.ModelStreamInfer(ctx)
	if err != nil {
		return err
	}
	if err := stream.Send(c.request("bad", unknownModel, 1)); err != nil {
		return err
	}
	refusal, err := stream.Recv()
	if err != nil {
		return err
	}
	if refusal.InferResponse.GetId() != "bad" || refusal.ErrorMessage == "" {
		return fmt.Errorf("%s gave no error in the stream, but %v", unknownModel, refusal)
	}
	fmt.Println("refused in a stream:", refusal.ErrorMessage)
	if err := stream.Send(c.request("good", c.model, 2)); err != nil {
		return err
	}
	answer, err := stream.Recv()
	if err != nil {
		return err
	}
	if err := c.check(answer.InferResponse, "good", 2); err != nil {
		return err
	}
	if err := stream.CloseSend(); err != nil {
		return err
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		return fmt.Errorf("the stream ended with %v", err)
	}
	fmt.Println("the stream went on")
	return nil
}

// request makes a request with raw tensors: one little-endian block of bytes an input, in order.
func (c *client) request(id, model string, seed int32) *inference.ModelInferRequest {
	left, right := operands(c.shape, seed)
	return &inference.ModelInferRequest{
		ModelName: model,
		Id:        id,
		Inputs: []*inference.ModelInferRequest_InferInputTensor{
			{Name: "INPUT0", Datatype: "INT32", Shape: c.shape},
			{Name: "INPUT1", Datatype: "INT32", Shape: c.shape},
		},
		RawInputContents: [][]byte{toBytes(left), toBytes(right)},
	}
}

// check compares an answer with what the model is known to compute.
func (c *client) check(response *inference.ModelInferResponse, id string, seed int32) error {
	if response.GetId() != id {
		return fmt.Errorf("the answer has id %s, expected %s", response.GetId(), id)
	}
	if len(response.Outputs) != 2 || len(response.RawOutputContents) != 2 {
		return fmt.Errorf("%s: %d outputs, %d with raw contents",
			id, len(response.Outputs), len(response.RawOutputContents))
	}
	left, right := operands(c.shape, seed)
	sums, differences := make([]int32, len(left)), make([]int32, len(left))
	for i := range left {
		sums[i], differences[i] = left[i]+right[i], left[i]-right[i]
	}
	expected := map[string][]int32{"OUTPUT0": sums, "OUTPUT1": differences}
	for i, tensor := range response.Outputs {
		got := fromBytes(response.RawOutputContents[i])
		if !slices.Equal(got, expected[tensor.Name]) {
			return fmt.Errorf("%s: %s is %v, expected %v", id, tensor.Name, got, expected[tensor.Name])
		}
		delete(expected, tensor.Name)
	}
	if len(expected) != 0 {
		return fmt.Errorf("%s: the outputs are not OUTPUT0 and OUTPUT1", id)
	}
	return nil
}

// operands returns INPUT0 and INPUT1 of a request: numbers that differ between seeds.
func operands(shape []int64, seed int32) (left, right []int32) {
	for i := range int32(size(shape)) {
		left, right = append(left, i+seed), append(right, i*i-50)
	}
	return left, right
}

func toBytes(values []int32) []byte {
	var bytes []byte
	for _, value := range values {
		bytes = binary.LittleEndian.AppendUint32(bytes, uint32(value))
	}
	return bytes
}

func fromBytes(bytes []byte) []int32 {
	values := make([]int32, len(bytes)/4)
	for i := range values {
		values[i] = int32(binary.LittleEndian.Uint32(bytes[4*i:]))
	}
	return values
}

func size(shape []int64) int64 {
	product := int64(1)
	for _, extent := range shape {
		product *= extent
	}
	return product
}

// signature writes tensors as NAME DATATYPE[SHAPE].
func signature(tensors []*inference.ModelMetadataResponse_TensorMetadata) string {
	var parts []string
	for _, tensor := range tensors {
		shape := strings.ReplaceAll(strings.Trim(fmt.Sprint(tensor.Shape), "[]"), " ", ",")
		parts = append(parts, fmt.Sprintf("%s %s[%s]", tensor.Name, tensor.Datatype, shape))
	}
	return strings.Join(parts, ", ")
}

// describe writes what a call failed with as Code: text.
func describe(err error) string {
	if answer, ok := status.FromError(err); ok {
		return fmt.Sprintf("%s: %s", answer.Code(), answer.Message())
	}
	return err.Error()
}
