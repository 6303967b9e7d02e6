package reference

import (
	"context"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"
	"github.com/twmb/franz-go/pkg/kmsg"
)

// Timestamps that ask ListOffsets for an end of the log instead of a time.
const (
	earliest = -2
	latest   = -1
)

// HighWatermarks asks for the high watermarks of partitions (topic → partitions): one past the last record that every in-sync replica
// has, whether or not its transaction has ended. Every record that a producer saw acknowledged lies below it. The end of the committed
// records (last stable offset) would not do: Kafka writes transaction markers after it acknowledged the commit.
//
// The answer names every partition asked for, or there is an error.
func HighWatermarks(ctx context.Context, cl *kgo.Client, partitions map[string][]int32) (map[string]map[int32]int64, error) {
	return listOffsets(ctx, cl, partitions, latest)
}

// LogStarts asks for the first position of partitions, as [HighWatermarks] does for the end.
func LogStarts(ctx context.Context, cl *kgo.Client, partitions map[string][]int32) (map[string]map[int32]int64, error) {
	return listOffsets(ctx, cl, partitions, earliest)
}

func listOffsets(ctx context.Context, cl *kgo.Client, partitions map[string][]int32, at int64) (map[string]map[int32]int64, error) {
	req := kmsg.NewPtrListOffsetsRequest()
	req.ReplicaID = -1
	req.IsolationLevel = readUncommitted
	for topic, numbers := range partitions {
		t := kmsg.NewListOffsetsRequestTopic()
		t.Topic = topic
		for _, number := range numbers {
			p := kmsg.NewListOffsetsRequestTopicPartition()
			p.Partition, p.Timestamp = number, at
			t.Partitions = append(t.Partitions, p)
		}
		req.Topics = append(req.Topics, t)
	}
	resp, err := req.RequestWith(ctx, cl)
	if err != nil {
		return nil, fmt.Errorf("list offsets: %w", err)
	}
	found := make(map[string]map[int32]int64, len(partitions))
	for _, t := range resp.Topics {
		if found[t.Topic] == nil {
			found[t.Topic] = make(map[int32]int64, len(t.Partitions))
		}
		for _, p := range t.Partitions {
			if err := kerr.ErrorForCode(p.ErrorCode); err != nil {
				return nil, fmt.Errorf("list offsets of %s partition %d: %w", t.Topic, p.Partition, err)
			}
			found[t.Topic][p.Partition] = p.Offset
		}
	}
	for topic, numbers := range partitions {
		for _, number := range numbers {
			if offset, ok := found[topic][number]; !ok || offset < 0 {
				return nil, fmt.Errorf("list offsets: no answer for %s partition %d", topic, number)
			}
		}
	}
	return found, nil
}

// The isolation level of the barrier's question; see [HighWatermarks].
const readUncommitted = 0

// WaitFor is the barrier. It asks once for the high watermarks of topics and returns nil when the tables have passed them: everything that
// was acknowledged before the call is then visible. An error of the broker is waited out; the only error is that ctx is done, and then
// nothing may be judged.
func (t *Tables) WaitFor(ctx context.Context, topics []string) error {
	begun := time.Now()
	marks, err := t.askHighWatermarks(ctx, topics)
	if err != nil {
		return err
	}
	for _, topic := range topics {
		if err := t.await(ctx, topic, marks[topic][0]); err != nil {
			return err
		}
		t.metrics.waited.WithLabelValues(topic).Observe(time.Since(begun).Seconds())
	}
	return nil
}

// askHighWatermarks repeats the question until it is answered or ctx is done.
func (t *Tables) askHighWatermarks(ctx context.Context, topics []string) (map[string]map[int32]int64, error) {
	ask := make(map[string][]int32, len(topics))
	for _, topic := range topics {
		if t.tails[topic] == nil {
			return nil, fmt.Errorf("barrier: %s is not among the tables", topic)
		}
		ask[topic] = []int32{0}
	}
	for pause := 10 * time.Millisecond; ; pause = min(2*pause, time.Second) {
		marks, err := HighWatermarks(ctx, t.client, ask)
		if err == nil {
			return marks, nil
		}
		if ctx.Err() != nil {
			return nil, fmt.Errorf("barrier: %w", ctx.Err())
		}
		t.metrics.errors.Inc()
		t.log.Warn("barrier waits: high watermarks are not to be had", "error", err)
		if err := sleep(ctx, pause); err != nil {
			return nil, fmt.Errorf("barrier: %w", err)
		}
	}
}

// await returns when the topic's table has passed every position below mark.
func (t *Tables) await(ctx context.Context, topic string, mark int64) error {
	for {
		t.mu.RLock()
		position, advanced := t.tails[topic].position, t.advanced
		t.mu.RUnlock()
		if position >= mark {
			return nil
		}
		select {
		case <-advanced:
		case <-ctx.Done():
			return fmt.Errorf("barrier on %s: at %d of %d: %w", topic, position, mark, ctx.Err())
		}
	}
}

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}
