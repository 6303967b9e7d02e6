package clickhouse

import (
	"context"
	"fmt"
	"reflect"
	"slices"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// heads are the types of processed outcomes without their items, by kind.
var heads = map[string]reflect.Type{
	schemas.KindOwnership:      reflect.TypeFor[schemas.OwnershipResult](),
	schemas.KindCustomerEvents: reflect.TypeFor[schemas.EventResult](),
	schemas.KindReferrals:      reflect.TypeFor[schemas.ReferralResult](),
	schemas.KindSales:          reflect.TypeFor[schemas.SaleResult](),
	schemas.KindTransactions:   reflect.TypeFor[schemas.TransactionResult](),
	schemas.References:         reflect.TypeFor[schemas.ReferenceProcessed](),
}

// BatchOutcomes are the outcomes of the first attempts of a batch's items, by index, those that are here already: what the request that
// made the batch was told, or would have been. kind is that of the batch's result topics.
func (r *Reports) BatchOutcomes(ctx context.Context, tenant, kind, batchKey string) ([]schemas.OutcomeReport, error) {
	ctx, cancel := context.WithTimeout(ctx, reportLimit)
	defer cancel()
	processed, err := r.firstProcessed(ctx, tenant, kind, batchKey)
	if err != nil {
		return nil, fmt.Errorf("processed outcomes of a batch: %w", err)
	}
	unprocessed, err := r.firstUnprocessed(ctx, tenant, batchKey)
	if err != nil {
		return nil, fmt.Errorf("unprocessed outcomes of a batch: %w", err)
	}
	all := append(processed, unprocessed...)
	slices.SortFunc(all, func(a, b schemas.OutcomeReport) int { return int(a.Index) - int(b.Index) })
	return all, nil
}

func (r *Reports) firstProcessed(ctx context.Context, tenant, kind, batchKey string) ([]schemas.OutcomeReport, error) {
	head, ok := heads[kind]
	if !ok {
		return nil, fmt.Errorf("there are no outcomes of the kind %q", kind)
	}
	topic, _ := schemas.TopicNamed(schemas.ProcessedTopic(kind))
	log := tablesOf(topic)[0]
	columns, fields := headColumns(log, topic.Name, head, nil)
	// A table may have rows of other topics: unmatched sales are sales, too.
	rows, err := r.conn.any.Query(ctx, "SELECT `"+strings.Join(columns, "`, `")+"` FROM "+r.conn.table(log.name)+
		" WHERE tenant = ? AND batch = ? AND attempt = 1 AND topic = ?", tenant, batchKey, topic.Name)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []schemas.OutcomeReport
	for rows.Next() {
		value := reflect.New(head)
		into := make([]any, len(fields))
		for i, field := range fields {
			into[i] = value.Elem().FieldByIndex(field).Addr().Interface()
		}
		if err := rows.Scan(into...); err != nil {
			return nil, err
		}
		index, _ := value.Elem().FieldByName("Index").Interface().(int32)
		all = append(all, schemas.OutcomeReport{Index: index, Processed: value.Interface()})
	}
	return all, rows.Err()
}

// headColumns are the columns that a table has of the members of a head, and the members' places in its Go type.
func headColumns(log *tableSpec, topic string, head reflect.Type, at []int) (columns []string, fields [][]int) {
	i := slices.IndexFunc(log.sources, func(s source) bool { return s.topic == topic || s.topic == "" })
	for f := range head.NumField() {
		field := head.Field(f)
		place := append(slices.Clone(at), f)
		if field.Anonymous {
			c, p := headColumns(log, topic, field.Type, place)
			columns, fields = append(columns, c...), append(fields, p...)
			continue
		}
		for _, c := range log.sources[i].columns {
			if c.path == field.Tag.Get("avro") {
				columns, fields = append(columns, c.name), append(fields, place)
			}
		}
	}
	return columns, fields
}

func (r *Reports) firstUnprocessed(ctx context.Context, tenant, batchKey string) ([]schemas.OutcomeReport, error) {
	rows, err := r.conn.any.Query(ctx, "SELECT `index`, reason_code, reason_field, reason_value, reason_message FROM "+r.conn.table("unprocessed")+
		" WHERE tenant = ? AND batch = ? AND attempt = 1", tenant, batchKey)
	if err != nil {
		return nil, err
	}
	defer rows.Close()
	var all []schemas.OutcomeReport
	for rows.Next() {
		var o schemas.OutcomeReport
		var codes, fields, messages []string
		var values []*string
		if err := rows.Scan(&o.Index, &codes, &fields, &values, &messages); err != nil {
			return nil, err
		}
		o.Reasons = reasonsOf(codes, fields, values, messages)
		all = append(all, o)
	}
	return all, rows.Err()
}

// reasonsOf puts the parallel columns of an unprocessed outcome's reasons together.
func reasonsOf(codes, fields []string, values []*string, messages []string) []schemas.Reason {
	var reasons []schemas.Reason
	for i := range codes {
		reasons = append(reasons, schemas.Reason{Code: codes[i], Field: fields[i], Value: values[i], Message: messages[i]})
	}
	return reasons
}
