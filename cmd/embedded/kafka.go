package embedded

import (
	"context"
	"errors"
	"fmt"
	"net"
	"os"
	"path/filepath"
	"time"

	"github.com/twmb/franz-go/pkg/kfake"
	"github.com/twmb/franz-go/pkg/kgo"
)

// NewKafka starts a kfake broker as every one of ours is, embedded or in a test: one broker, sessions as short as tests want them, nothing that is
// forgotten with time, and topics with LogAppendTime that take no producer's word for the time (stamp.go). The options come on top.
func NewKafka(opts ...kfake.Opt) (*kfake.Cluster, error) {
	cluster, err := kfake.NewCluster(append([]kfake.Opt{
		kfake.NumBrokers(1),
		kfake.GroupMinSessionTimeout(time.Second),
		kfake.BrokerConfigs(map[string]string{
			"default.replication.factor": "1",
			// Records that we write may have 4 MiB; a batch of them has some bytes more.
			"message.max.bytes": "5242880",
			// A stack that was off for longer than Kafka's default of seven days must find its offsets, and the
			// log itself where a topic does not say otherwise.
			"offsets.retention.minutes": "52560000", // 100 years
			"log.retention.ms":          "-1",
		}),
	}, opts...)...)
	if err == nil {
		stampOnAppend(cluster)
	}
	return cluster, err
}

// closedFile is in the broker's folder when it was closed cleanly and nothing has opened it since.
const closedFile = "closed"

func runKafka(p *process) error {
	closed := filepath.Join(p.spec.Dir, closedFile)
	switch err := os.Remove(closed); {
	case errors.Is(err, os.ErrNotExist):
		if err := repairKafka(p); err != nil {
			return fmt.Errorf("repair %s: %w", p.dataDir(), err)
		}
	case err != nil:
		return err
	}
	cluster, err := openKafka(p, p.spec.Addrs[0])
	if err != nil {
		return err
	}
	p.report(report{State: stateListening, Addrs: cluster.ListenAddrs()})
	<-p.parentGone
	cluster.Close()
	return os.WriteFile(closed, nil, 0o644)
}

func openKafka(p *process, addr string) (*kfake.Cluster, error) {
	// No kfake.SyncWrites: what the operating system has survives the end of any process, and power loss is
	// outside what a single embedded broker promises.
	cluster, err := NewKafka(
		kfake.ClusterID("counterfoil"),
		kfake.DataDir(p.dataDir()),
		kfake.WithLogger(kfake.BasicLogger(os.Stderr, kfake.LogLevelWarn)),
		kfake.ListenFn(func(string, string) (net.Listener, error) { return p.listen(addr) }),
	)
	if err != nil {
		return nil, fmt.Errorf("open %s: %w", p.dataDir(), err)
	}
	return cluster, nil
}

// kafkaAnswers asks the broker for its versions.
func kafkaAnswers(ctx context.Context, addrs []string) error {
	client, err := kgo.NewClient(kgo.SeedBrokers(addrs...))
	if err != nil {
		return err
	}
	defer client.Close()
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	return client.Ping(ctx)
}
