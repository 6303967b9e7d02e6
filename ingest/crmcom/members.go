package crmcom

import "time"

// member is a member of a row: which kinds have it, and how it is read. A kind that does not have it ignores it.
type member struct {
	of   kinds
	read func(w *row)
}

// rowMembers are the members of rows by their names in the contract, 4.6.
var rowMembers = map[string]member{
	"request_unique_identifier": {every, (*row).readRef},

	"accounts_receivable_identifier": {notReferral, func(w *row) { w.event.Account = w.account("account") }},
	"rewards_participant_identifier": {notReferral, func(w *row) { w.event.Participant = w.participant("participant") }},
	"classification_identifier":      {every, func(w *row) { w.common.Classification = w.named("classification") }},
	"performed_by_unit_identifier":   {every, func(w *row) { w.common.Unit = w.named("unit") }},
	"performed_on":                   {every, func(w *row) { w.common.PerformedOn = w.date("performed_on") }},
	"description":                    {every, func(w *row) { w.common.Description = w.text("description") }},
	"external_system":                {every, func(w *row) { w.common.ExternalSystem = w.text("external_system") }},
	"external_system_reference_number": {every, func(w *row) {
		w.common.ExternalSystemReferenceNumber = w.text("external_system_reference_number")
	}},

	"reference_number":                {purchase, func(w *row) { w.event.ReferenceNumber = w.text("reference_number") }},
	"payment_medium_type_identifier":  {purchase | financialAchievement, (*row).paymentMediumType},
	"payment_medium_brand_identifier": {purchase | financialAchievement, (*row).paymentMediumBrand},
	"payment_medium_identifier":       {purchase | financialAchievement, func(w *row) { w.event.PaymentMedium = w.text("payment_medium") }},
	"invoice_identifier":              {purchase, func(w *row) { w.event.Invoice = w.invoice("invoice") }},
	"products_set":                    {purchase, func(w *row) { w.event.Products = w.products() }},

	"referred_rewards_participant_identifier":    {referral, func(w *row) { w.referral.Referred = w.participant("referred") }},
	"referred_by_rewards_participant_identifier": {referral, func(w *row) { w.referral.ReferredBy = w.participant("referred_by") }},

	"social_media": {socialMedia, func(w *row) { w.event.SocialMedia = w.text("social_media") }},
	"profile":      {socialMedia, func(w *row) { w.event.Profile = w.text("profile") }},
	"action":       {socialMedia, func(w *row) { w.event.Action = w.text("action") }},

	"website": {web, func(w *row) { w.event.Website = w.text("website") }},

	"product_identifier": {financialAchievement, func(w *row) { w.event.Product = w.product("product") }},
	"amount":             {financialAchievement, func(w *row) { w.event.Amount = w.decimal("amount") }},

	"measured_key_performance_indicators_set": {financialStatement, func(w *row) { w.event.Measures = w.measures() }},

	"udf_string_1":  udfString(every, "udf_string_1", func(w *row) **string { return &w.common.UDFString1 }),
	"udf_string_2":  udfString(every, "udf_string_2", func(w *row) **string { return &w.common.UDFString2 }),
	"udf_string_3":  udfString(every, "udf_string_3", func(w *row) **string { return &w.common.UDFString3 }),
	"udf_string_4":  udfString(every, "udf_string_4", func(w *row) **string { return &w.common.UDFString4 }),
	"udf_string_5":  udfString(every, "udf_string_5", func(w *row) **string { return &w.common.UDFString5 }),
	"udf_string_6":  udfString(every, "udf_string_6", func(w *row) **string { return &w.common.UDFString6 }),
	"udf_string_7":  udfString(every, "udf_string_7", func(w *row) **string { return &w.common.UDFString7 }),
	"udf_string_8":  udfString(every, "udf_string_8", func(w *row) **string { return &w.common.UDFString8 }),
	"udf_string_9":  udfString(purchase, "udf_string_9", func(w *row) **string { return &w.event.UDFString9 }),
	"udf_string_10": udfString(purchase, "udf_string_10", func(w *row) **string { return &w.event.UDFString10 }),
	"udf_string_11": udfString(purchase, "udf_string_11", func(w *row) **string { return &w.event.UDFString11 }),
	"udf_string_12": udfString(purchase, "udf_string_12", func(w *row) **string { return &w.event.UDFString12 }),
	"udf_string_13": udfString(purchase, "udf_string_13", func(w *row) **string { return &w.event.UDFString13 }),
	"udf_string_14": udfString(purchase, "udf_string_14", func(w *row) **string { return &w.event.UDFString14 }),
	"udf_string_15": udfString(purchase, "udf_string_15", func(w *row) **string { return &w.event.UDFString15 }),
	"udf_string_16": udfString(purchase, "udf_string_16", func(w *row) **string { return &w.event.UDFString16 }),
	"udf_float_1":   udfFloat("udf_float_1", func(w *row) **float64 { return &w.common.UDFFloat1 }),
	"udf_float_2":   udfFloat("udf_float_2", func(w *row) **float64 { return &w.common.UDFFloat2 }),
	"udf_float_3":   udfFloat("udf_float_3", func(w *row) **float64 { return &w.common.UDFFloat3 }),
	"udf_float_4":   udfFloat("udf_float_4", func(w *row) **float64 { return &w.common.UDFFloat4 }),
	"udf_date_1":    udfDate("udf_date_1", func(w *row) **time.Time { return &w.common.UDFDate1 }),
	"udf_date_2":    udfDate("udf_date_2", func(w *row) **time.Time { return &w.common.UDFDate2 }),
	"udf_date_3":    udfDate("udf_date_3", func(w *row) **time.Time { return &w.common.UDFDate3 }),
	"udf_date_4":    udfDate("udf_date_4", func(w *row) **time.Time { return &w.common.UDFDate4 }),
}

func udfString(of kinds, name string, to func(w *row) **string) member {
	return member{of, func(w *row) { *to(w) = w.text(name) }}
}

func udfFloat(name string, to func(w *row) **float64) member {
	return member{every, func(w *row) { *to(w) = w.float(name) }}
}

func udfDate(name string, to func(w *row) **time.Time) member {
	return member{every, func(w *row) { *to(w) = w.date(name) }}
}
