package v1

import (
	"fmt"
	"strings"

	"github.com/counterfoil/counterfoil/processors/matching"
	"github.com/counterfoil/counterfoil/processors/upserts"
	"github.com/counterfoil/counterfoil/processors/validation"
	"github.com/counterfoil/counterfoil/schemas"
	"github.com/counterfoil/counterfoil/schemas/plainjson"
)

// Kind is what items of one kind are.
type Kind struct {
	Name   string // in paths: order-lines
	Topic  string // order_lines
	Schema *schemas.Schema

	codec *plainjson.Codec
	value func() any // a new value of the topic's Go type
	// key is the Kafka key of an item whose order matters, as the engine has it; nil: the item has none.
	key func(tenant string, value any) []byte
	// check finds all defects that can be seen in a value.
	check  func(value any) []schemas.Reason
	record bool
}

// IsRecord reports whether the items are records of a reference or fact topic, which are judged at the door. Of other items the processors make
// the check, unless they do not even fit the schema.
func (k *Kind) IsRecord() bool { return k.record }

// Kinds are all kinds, in the order of the table of topics.
func Kinds() []*Kind { return kinds }

var kinds = func() (all []*Kind) {
	for _, t := range schemas.Topics() {
		k := &Kind{Name: strings.ReplaceAll(t.Name, "_", "-"), Topic: t.Name, Schema: t.Schema, value: values[t.Name], key: noKey}
		switch {
		case t.Role == schemas.RoleItem:
			if key := keys[t.Name]; key != nil {
				k.key = key
			}
			k.check = checks[t.Name]
		case t.Role == schemas.RoleFact, t.Role == schemas.RoleReference && t.Name != schemas.APIKeys:
			k.record = true
			k.check = func(v any) []schemas.Reason { return validation.CheckRecord(t.Name, v) }
		default:
			continue
		}
		var err error
		if k.codec, err = plainjson.New(0, t.Schema.Text()); err != nil {
			panic(err)
		}
		if k.value == nil || k.check == nil {
			panic(fmt.Sprintf("v1: no type, or no check, for %s", t.Name))
		}
		all = append(all, k)
	}
	return all
}()

var values = map[string]func() any{
	schemas.KindOwnership:       func() any { return new(schemas.Ownership) },
	schemas.KindCustomerEvents:  func() any { return new(schemas.CustomerEvent) },
	schemas.KindReferrals:       func() any { return new(schemas.Referral) },
	schemas.KindSales:           func() any { return new(schemas.Sale) },
	schemas.KindTransactions:    func() any { return new(schemas.Transaction) },
	schemas.Calls:               func() any { return new(schemas.Call) },
	schemas.OrderLines:          func() any { return new(schemas.OrderLine) },
	schemas.InvoiceLines:        func() any { return new(schemas.InvoiceLine) },
	schemas.StockLevels:         func() any { return new(schemas.Stock) },
	schemas.Accounts:            func() any { return new(schemas.Account) },
	schemas.Participants:        func() any { return new(schemas.Participant) },
	schemas.Units:               func() any { return new(schemas.Unit) },
	schemas.Classifications:     func() any { return new(schemas.Classification) },
	schemas.Products:            func() any { return new(schemas.Product) },
	schemas.PaymentMediumTypes:  func() any { return new(schemas.PaymentMediumType) },
	schemas.PaymentMediumBrands: func() any { return new(schemas.PaymentMediumBrand) },
	schemas.KPIs:                func() any { return new(schemas.KPI) },
	schemas.Invoices:            func() any { return new(schemas.Invoice) },
	schemas.Customers:           func() any { return new(schemas.Customer) },
	schemas.CustomerParts:       func() any { return new(schemas.CustomerPart) },
}

// checks are those of the items' kinds.
var checks = map[string]func(value any) []schemas.Reason{
	schemas.KindOwnership:      func(v any) []schemas.Reason { return upserts.Check(v.(*schemas.Ownership)) },
	schemas.KindCustomerEvents: func(v any) []schemas.Reason { return validation.CheckEvent(v.(*schemas.CustomerEvent)) },
	schemas.KindReferrals:      func(v any) []schemas.Reason { return validation.CheckReferral(v.(*schemas.Referral)) },
	schemas.KindSales:          func(v any) []schemas.Reason { return matching.Check(v.(*schemas.Sale)) },
	schemas.KindTransactions:   func(v any) []schemas.Reason { return validation.CheckTransaction(v.(*schemas.Transaction)) },
}

// keys are those of the kinds whose items are judged in order.
var keys = map[string]func(tenant string, value any) []byte{
	schemas.KindOwnership: func(tenant string, v any) []byte { return upserts.Key(tenant, v.(*schemas.Ownership)) },
	schemas.KindReferrals: func(tenant string, _ any) []byte { return []byte(tenant) },
	schemas.KindSales: func(tenant string, v any) []byte {
		sale := v.(*schemas.Sale)
		if !matching.Ordered(sale) {
			return nil
		}
		return matching.Key(tenant, sale, "")
	},
}

func noKey(string, any) []byte { return nil }
