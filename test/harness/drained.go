package harness

import (
	"context"
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kgo"
)

// WaitDrained waits until every consumer group of ours has committed everything that lies in its topics: all items are judged and all
// outcomes are in ClickHouse.
func (p *Parts) WaitDrained(limit time.Duration) {
	p.t.Helper()
	Eventually(p.t, limit, func() string {
		lag, err := p.Lag(p.t.Context())
		if err != nil {
			return err.Error()
		}
		return strings.Join(lag, "; ")
	})
}

// Lag names each partition that a group of ours has not read to its end. Commits are read before ends, so that no lag means that there was a
// moment without any work.
func (p *Parts) Lag(ctx context.Context) ([]string, error) {
	ctx, cancel := context.WithTimeout(ctx, 10*time.Second)
	defer cancel()
	adm := kadm.NewClient(p.Client())
	groups, err := adm.ListGroups(ctx)
	if err != nil {
		return nil, fmt.Errorf("list groups: %w", err)
	}
	commits := map[string]kadm.OffsetResponses{}
	topics := map[string]bool{}
	for _, group := range groups.Groups() {
		if !strings.HasPrefix(group, "counterfoil") {
			continue
		}
		if commits[group], err = adm.FetchOffsets(ctx, group); err != nil {
			return nil, fmt.Errorf("read the commits of %s: %w", group, err)
		}
		for topic := range commits[group] {
			topics[topic] = true
		}
	}
	if len(topics) == 0 {
		return []string{"no group has committed anything yet"}, nil
	}
	ends, err := adm.ListEndOffsets(ctx, slices.Collect(maps.Keys(topics))...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("read the ends of topics: %w", err)
	}
	var lag []string
	for group, offsets := range commits {
		offsets.Each(func(o kadm.OffsetResponse) {
			if end, ok := ends.Lookup(o.Topic, o.Partition); ok && o.At < end.Offset {
				lag = append(lag, fmt.Sprintf("%s is at %d of %d in %s/%d", group, o.At, end.Offset, o.Topic, o.Partition))
			}
		})
	}
	slices.Sort(lag)
	return lag, nil
}

// ReadTopics returns the committed records of topics by topic and partition, each partition in the order of its offsets.
func (p *Parts) ReadTopics(topics ...string) []*kgo.Record {
	p.t.Helper()
	ctx, cancel := context.WithTimeout(p.t.Context(), time.Minute)
	defer cancel()
	records, err := ReadCommitted(ctx, p.Kafka, topics...)
	if err != nil {
		p.t.Fatal(err)
	}
	return records
}

// ReadCommitted reads the committed records that lie in topics now. Ends are last stable offsets; markers at the end of a partition are
// passed, because control records are kept while reading.
func ReadCommitted(ctx context.Context, kafka []kgo.Opt, topics ...string) ([]*kgo.Record, error) {
	client, err := kgo.NewClient(append(slices.Clone(kafka), kgo.FetchIsolationLevel(kgo.ReadCommitted()), kgo.KeepControlRecords())...)
	if err != nil {
		return nil, err
	}
	defer client.Close()
	adm := kadm.NewClient(client)
	ends, err := adm.ListCommittedOffsets(ctx, topics...)
	if err == nil {
		err = ends.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("read the ends of %v: %w", topics, err)
	}
	starts, err := adm.ListStartOffsets(ctx, topics...)
	if err == nil {
		err = starts.Error()
	}
	if err != nil {
		return nil, fmt.Errorf("read the starts of %v: %w", topics, err)
	}
	type place struct {
		topic     string
		partition int32
	}
	left := map[place]int64{} // offset up to which it is still to be read
	from := map[string]map[int32]kgo.Offset{}
	ends.Each(func(end kadm.ListedOffset) {
		start, ok := starts.Lookup(end.Topic, end.Partition)
		if !ok || start.Offset >= end.Offset {
			return
		}
		left[place{end.Topic, end.Partition}] = end.Offset
		if from[end.Topic] == nil {
			from[end.Topic] = map[int32]kgo.Offset{}
		}
		from[end.Topic][end.Partition] = kgo.NewOffset().At(start.Offset)
	})
	if len(left) == 0 {
		return nil, nil
	}
	client.AddConsumePartitions(from)
	var all []*kgo.Record
	for len(left) > 0 {
		fetches := client.PollFetches(ctx)
		if err := fetches.Err(); err != nil {
			return nil, fmt.Errorf("read %v: %w", topics, err)
		}
		fetches.EachRecord(func(r *kgo.Record) {
			at := place{r.Topic, r.Partition}
			end, ok := left[at]
			if !ok || r.Offset >= end {
				delete(left, at)
				return
			}
			if r.Offset == end-1 {
				delete(left, at)
			}
			if !r.Attrs.IsControl() {
				all = append(all, r)
			}
		})
	}
	slices.SortStableFunc(all, func(a, b *kgo.Record) int {
		if c := strings.Compare(a.Topic, b.Topic); c != 0 {
			return c
		}
		return int(a.Partition) - int(b.Partition)
	})
	return all, nil
}

// Partitions is how many partitions a topic has.
func Partitions(ctx context.Context, client *kgo.Client, topic string) (int, error) {
	details, err := kadm.NewClient(client).ListTopics(ctx, topic)
	if err != nil {
		return 0, fmt.Errorf("list topic %s: %w", topic, err)
	}
	d, ok := details[topic]
	if !ok || d.Err != nil {
		return 0, fmt.Errorf("topic %s: %w", topic, d.Err)
	}
	return len(d.Partitions), nil
}
