package ingest

import (
	"context"
	"fmt"

	"github.com/counterfoil/counterfoil/schemas"
)

// FindBatch finds a tenant's batch by its number, with counts that are no older than the call. It is in ClickHouse, or its header is in Kafka
// at the offset that the number names: a number that was given out is never unknown. The error is an *[Error]: CodeNotFound when the tenant
// has no such batch, whoever else has one; CodeBusy when Kafka or ClickHouse do not answer, or the sink is behind.
func (s *Service) FindBatch(ctx context.Context, tenant string, number int64) (*schemas.BatchReport, error) {
	unknown := NewError(CodeNotFound, "there is no such batch")
	if number <= 0 {
		return nil, unknown
	}
	var kind string
	b, err := s.deps.Reports.Batch(ctx, tenant, number)
	switch {
	case err != nil:
		return nil, reportError(err)
	case b != nil:
		kind = b.Kind
	default:
		if kind, err = s.kindInKafka(ctx, tenant, number); err != nil {
			return nil, busy("kafka", "the batch could not be looked up; try again later", err)
		}
		if kind == "" {
			return nil, unknown
		}
	}
	if err := s.WaitForSink(ctx, readFrom(kind)...); err != nil {
		return nil, err
	}
	if b, err = s.deps.Reports.Batch(ctx, tenant, number); err != nil {
		return nil, reportError(err)
	}
	if b == nil {
		return nil, AsError(fmt.Errorf("batch %d is in Kafka and not in ClickHouse, although the sink has passed it", number))
	}
	return b, nil
}

// kindInKafka is the kind of a tenant's batch by its header in Kafka; empty: the tenant has none with this number. Whether another has, or
// nobody, makes no difference: the record's envelope says whose it is, and nothing of another tenant's is looked at.
func (s *Service) kindInKafka(ctx context.Context, tenant string, number int64) (string, error) {
	record, err := s.recordAt(ctx, schemas.Batches, 0, s.deps.Epochs.BatchOffset(number))
	if record == nil || err != nil {
		return "", err
	}
	if envelope, err := schemas.ParseEnvelope(record.Headers); err != nil || envelope.Tenant != tenant {
		return "", nil //nolint:nilerr // what is not in our form is nobody's batch
	}
	header, err := s.decodeHeader(ctx, record.Value)
	if err != nil {
		return "", err
	}
	return header.Kind, nil
}

// WaitForBatches waits until what [Service.Batches] reads is no older than the call. The error is an *[Error] with CodeBusy.
func (s *Service) WaitForBatches(ctx context.Context) error {
	return s.WaitForSink(ctx, append(resultTopics(), schemas.Batches)...)
}

// Batches are a tenant's, the newest first, with numbers below before (0: from the newest on), at most limit. Who wants them as they are now
// calls [Service.WaitForBatches] first, once for any number of pages. The error is an *[Error] with CodeBusy.
func (s *Service) Batches(ctx context.Context, tenant string, before int64, limit int) ([]schemas.BatchReport, error) {
	rows, err := s.deps.Reports.Batches(ctx, tenant, before, limit)
	if err != nil {
		return nil, reportError(err)
	}
	return rows, nil
}

// BatchItems are the items of a batch that [Service.FindBatch] has found: those whose last attempt was processed, or was not, by index, with
// indexes above after (-1: from the first on), at most limit. The error is an *[Error] with CodeBusy.
func (s *Service) BatchItems(ctx context.Context, b *schemas.BatchReport, processed bool, after int32, limit int) ([]schemas.ItemReport, error) {
	rows, err := s.deps.Reports.BatchItems(ctx, b.Tenant, resultKind(b.Kind), b.Key, processed, after, limit)
	if err != nil {
		return nil, reportError(err)
	}
	return rows, nil
}

func reportError(err error) *Error {
	return busy("reports", "the reports cannot be read now; try again later", err)
}
