package main

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"time"

	"github.com/twmb/franz-go/pkg/kadm"
	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/sinks/clickhouse"
)

// watchEvery is how often running roles look whether the topics are still those that they began with.
const watchEvery = 5 * time.Second

// watch ends the roles of a process whose topics are created anew, or taken over as a new epoch, beneath them: they would go on with
// positions, versions and numbers of the life before. Whoever starts again is checked again.
type watch struct{ *parts }

func (w *watch) Ready() error { return nil }

func (w *watch) Run(ctx context.Context) error {
	client, err := kgo.NewClient(w.kafka...)
	if err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	defer client.Close()
	tick := time.NewTicker(watchEvery)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-tick.C:
		}
		if err := w.look(ctx, kadm.NewClient(client)); err != nil {
			return err
		}
	}
}

// look takes no answer for a good one: Kafka and ClickHouse may be away.
func (w *watch) look(ctx context.Context, adm *kadm.Client) error {
	ctx, cancel := context.WithTimeout(ctx, watchEvery)
	defer cancel()
	known, err := w.conn.TopicEpochs(ctx)
	if err != nil {
		return nil //nolint:nilerr // see above
	}
	for topic, epoch := range w.epochs {
		switch k, ok := known[topic]; {
		case ok && k.Number > epoch.Number:
			return fmt.Errorf("topic %s was epoch %d when this began, and is taken over as epoch %d by now", topic, epoch.Number, k.Number)
		case k.Number < epoch.Number:
			delete(known, topic) // the node that knows more is away
		}
	}
	ids, err := topicIDs(ctx, adm)
	if err != nil && !errors.Is(err, kerr.UnknownTopicOrPartition) {
		return nil //nolint:nilerr // see above
	}
	// One that is missing may be so for a moment, or be deleted: then nothing is read or written under its name before it is created.
	maps.DeleteFunc(known, func(topic string, _ clickhouse.TopicEpoch) bool { return ids[topic] == "" })
	return sameTopics(known, ids)
}
