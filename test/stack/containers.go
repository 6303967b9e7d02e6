package stack

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"strconv"
	"testing"
	"time"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/network"
	"github.com/testcontainers/testcontainers-go"
	"github.com/testcontainers/testcontainers-go/wait"
)

// The images of the parts, as docker-compose.yml has them.
const (
	kafkaImage      = "apache/kafka:4.1.0"
	clickhouseImage = "clickhouse/clickhouse-server:26.7"
)

const containerStart = 5 * time.Minute // with the download of an image

// InContainers reports whether tests are to run against containers: TEST_KAFKA=containers.
func InContainers() bool { return os.Getenv("TEST_KAFKA") == "containers" }

// needDocker skips the test where no Docker daemon answers.
func needDocker(t testing.TB) {
	t.Helper()
	provider, err := testcontainers.NewDockerProvider()
	if err == nil {
		err = errors.Join(provider.Health(t.Context()), provider.Close())
	}
	if err != nil {
		t.Skipf("TEST_KAFKA=containers, and no Docker daemon answers here: %v", err)
	}
}

// startContainer starts a container whose ports are published on fixed ports of this machine, because a broker must say under which address
// it is reached before it runs. The caller holds shared.mu.
func startContainer(image string, ports map[string]int, strategy wait.Strategy, environment map[string]string) error {
	exposed, bindings := []string{}, network.PortMap{}
	for inside, outside := range ports {
		exposed = append(exposed, inside)
		port, err := network.ParsePort(inside)
		if err != nil {
			return err
		}
		bindings[port] = []network.PortBinding{{HostIP: netip.MustParseAddr("127.0.0.1"), HostPort: strconv.Itoa(outside)}}
	}
	ctx, cancel := context.WithTimeout(context.Background(), containerStart)
	defer cancel()
	c, err := testcontainers.Run(ctx, image,
		testcontainers.WithEnv(environment), testcontainers.WithExposedPorts(exposed...),
		testcontainers.WithHostConfigModifier(func(h *container.HostConfig) { h.PortBindings = bindings }),
		testcontainers.WithWaitStrategyAndDeadline(containerStart, strategy))
	if c != nil {
		shared.ends = append(shared.ends, func() { _ = testcontainers.TerminateContainer(c) }) // its reaper removes what stays behind
	}
	if err != nil {
		return fmt.Errorf("start %s: %w", image, err)
	}
	return nil
}

// kafkaContainer is the broker of the test process in a container, which the first call starts.
func kafkaContainer(t testing.TB) *Broker {
	t.Helper()
	needDocker(t)
	shared.mu.Lock()
	defer shared.mu.Unlock()
	if shared.container != nil {
		return shared.container
	}
	ports, err := freePorts(1)
	if err != nil {
		t.Fatal(err)
	}
	err = startContainer(kafkaImage, map[string]int{"9092/tcp": ports[0]}, wait.ForLog("Kafka Server started"), map[string]string{
		"KAFKA_NODE_ID":                                  "1",
		"KAFKA_PROCESS_ROLES":                            "broker,controller",
		"KAFKA_CONTROLLER_QUORUM_VOTERS":                 "1@localhost:9093",
		"KAFKA_LISTENERS":                                "PLAINTEXT://:9092,CONTROLLER://:9093",
		"KAFKA_ADVERTISED_LISTENERS":                     fmt.Sprintf("PLAINTEXT://127.0.0.1:%d", ports[0]),
		"KAFKA_LISTENER_SECURITY_PROTOCOL_MAP":           "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
		"KAFKA_INTER_BROKER_LISTENER_NAME":               "PLAINTEXT",
		"KAFKA_CONTROLLER_LISTENER_NAMES":                "CONTROLLER",
		"KAFKA_AUTO_CREATE_TOPICS_ENABLE":                "false",
		"KAFKA_OFFSETS_TOPIC_REPLICATION_FACTOR":         "1",
		"KAFKA_TRANSACTION_STATE_LOG_REPLICATION_FACTOR": "1",
		"KAFKA_TRANSACTION_STATE_LOG_MIN_ISR":            "1",
		"KAFKA_GROUP_INITIAL_REBALANCE_DELAY_MS":         "0",
		"KAFKA_GROUP_MIN_SESSION_TIMEOUT_MS":             "1000",
	})
	if err != nil {
		t.Fatal(err)
	}
	shared.container = &Broker{Addrs: []string{fmt.Sprintf("127.0.0.1:%d", ports[0])}}
	return shared.container
}

// clickhouseContainer starts the server of the test process in a container. The caller holds shared.mu.
func clickhouseContainer() (*CH, error) {
	ports, err := freePorts(2)
	if err != nil {
		return nil, err
	}
	err = startContainer(clickhouseImage, map[string]int{"9000/tcp": ports[0], "8123/tcp": ports[1]}, wait.ForHTTP("/ping").WithPort("8123/tcp"), map[string]string{
		"CLICKHOUSE_SKIP_USER_SETUP":           "1", // the user default, without a password, from anywhere
		"CLICKHOUSE_DEFAULT_ACCESS_MANAGEMENT": "1",
	})
	if err != nil {
		return nil, err
	}
	return &CH{Addr: fmt.Sprintf("127.0.0.1:%d", ports[0]), HTTPAddr: fmt.Sprintf("127.0.0.1:%d", ports[1]), User: "default"}, nil
}
