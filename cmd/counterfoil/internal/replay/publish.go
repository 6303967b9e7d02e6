package replay

import (
	"context"
	"errors"
	"fmt"
	"time"

	"github.com/twmb/franz-go/pkg/kerr"
	"github.com/twmb/franz-go/pkg/kgo"

	"github.com/counterfoil/counterfoil/schemas"
)

// transactionalID is that of every run: the latest one alone can publish.
const transactionalID = "replay"

// How long a transaction may be open. Until it ends, what was acknowledged behind its records is not judged; a run that dies in between holds
// the processors up so long, or until the next run.
const transactionTimeout = 10 * time.Second

// errFenced says that a later run has taken over.
var errFenced = errors.New("another replay has begun since: only one can be at work")

// claim takes the transactional id over. What a run before it has not committed is ended, and nothing that it still sends is taken.
func (r *replayer) claim(ctx context.Context) (err error) {
	opts := append(r.Kafka[:len(r.Kafka):len(r.Kafka)],
		kgo.TransactionalID(transactionalID), kgo.TransactionTimeout(transactionTimeout),
		kgo.RecordPartitioner(kgo.ManualPartitioner()),
		kgo.ProducerBatchMaxBytes(schemas.MaxItemBytes+64<<10)) // as much as the item topics take
	if r.producer, err = kgo.NewClient(opts...); err != nil {
		return fmt.Errorf("kafka client: %w", err)
	}
	r.Progress("taking over from an earlier replay")
	if _, _, err := r.producer.ProducerID(ctx); err != nil {
		return fmt.Errorf("take over the transactional id %s: %w", transactionalID, err)
	}
	return nil
}

// publish writes candidates in one transaction.
func (r *replayer) publish(ctx context.Context, all []*candidate) error {
	if err := r.producer.BeginTransaction(); err != nil {
		return fenced(fmt.Errorf("begin: %w", err))
	}
	records := make([]*kgo.Record, len(all))
	for i, c := range all {
		records[i] = c.rec
	}
	if err := r.producer.ProduceSync(ctx, records...).FirstErr(); err != nil {
		// What is left of it Kafka aborts itself, or the next run does.
		bound, cancel := context.WithTimeout(context.WithoutCancel(ctx), transactionTimeout)
		defer cancel()
		return fenced(fmt.Errorf("publish: %w", errors.Join(err, r.producer.EndTransaction(bound, kgo.TryAbort))))
	}
	if err := r.producer.EndTransaction(ctx, kgo.TryCommit); err != nil {
		return fenced(fmt.Errorf("it is not known whether %d items were published; another run finds out: %w", len(all), err))
	}
	for _, c := range all {
		c.item.Fate = FatePublished
		c.rec.Key, c.rec.Value, c.rec.Headers = nil, nil, nil // only its place is asked for: all that is selected may be too much for memory
	}
	r.published = append(r.published, all...)
	return nil
}

// fenced recognises that the transactional id was taken over.
func fenced(err error) error {
	for _, code := range []error{kerr.InvalidProducerEpoch, kerr.ProducerFenced, kerr.InvalidProducerIDMapping, kerr.UnknownProducerID} {
		if errors.Is(err, code) {
			return fmt.Errorf("%w (%w)", errFenced, err)
		}
	}
	return err
}
