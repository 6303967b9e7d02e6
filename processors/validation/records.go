package validation

import (
	"errors"
	"strings"

	"github.com/counterfoil/counterfoil/schemas"
)

// RecordCheck makes the check of records of reference and fact topics as they lie in Kafka, by [CheckRecord]: what upstream systems write there keeps
// the rules of what comes in by HTTP. The errors are [schemas.ErrSchemaPending] and *[schemas.BadRecordError], with the code of the first reason. A value
// that cannot be read as ours is not checked: whoever reads it, as a writer's other widths of decimals, knows what to refuse.
func RecordCheck(r *schemas.Registry) func(topic string, value []byte) error {
	checks := map[string]func(value []byte) error{
		schemas.Accounts:            recordCheck[schemas.Account](r, schemas.Accounts),
		schemas.Participants:        recordCheck[schemas.Participant](r, schemas.Participants),
		schemas.Units:               recordCheck[schemas.Unit](r, schemas.Units),
		schemas.Classifications:     recordCheck[schemas.Classification](r, schemas.Classifications),
		schemas.Products:            recordCheck[schemas.Product](r, schemas.Products),
		schemas.PaymentMediumTypes:  recordCheck[schemas.PaymentMediumType](r, schemas.PaymentMediumTypes),
		schemas.PaymentMediumBrands: recordCheck[schemas.PaymentMediumBrand](r, schemas.PaymentMediumBrands),
		schemas.KPIs:                recordCheck[schemas.KPI](r, schemas.KPIs),
		schemas.Invoices:            recordCheck[schemas.Invoice](r, schemas.Invoices),
		schemas.Customers:           recordCheck[schemas.Customer](r, schemas.Customers),
		schemas.CustomerParts:       recordCheck[schemas.CustomerPart](r, schemas.CustomerParts),
		schemas.APIKeys:             recordCheck[schemas.APIKey](r, schemas.APIKeys),
		schemas.Calls:               recordCheck[schemas.Call](r, schemas.Calls),
		schemas.OrderLines:          recordCheck[schemas.OrderLine](r, schemas.OrderLines),
		schemas.InvoiceLines:        recordCheck[schemas.InvoiceLine](r, schemas.InvoiceLines),
		schemas.StockLevels:         recordCheck[schemas.Stock](r, schemas.StockLevels),
	}
	return func(topic string, value []byte) error { return checks[topic](value) }
}

func recordCheck[T any](r *schemas.Registry, topic string) func(value []byte) error {
	t, _ := schemas.TopicNamed(topic)
	decoder := schemas.NewDecoder[T](r, t.Schema)
	return func(value []byte) error {
		v := new(T)
		var bad *schemas.BadRecordError
		if err := decoder.Decode(value, v); errors.As(err, &bad) {
			return nil
		} else if err != nil {
			return err
		}
		return defective(CheckRecord(topic, v))
	}
}

// defective is the error of a record with these defects; nil where there are none.
func defective(reasons []schemas.Reason) error {
	if len(reasons) == 0 {
		return nil
	}
	texts := make([]string, len(reasons))
	for i, r := range reasons {
		texts[i] = r.Field + ": " + r.Message
	}
	return &schemas.BadRecordError{Code: reasons[0].Code, Message: strings.Join(texts, " ")}
}
