/** What stands beside a quantized weight in a state and is no parameter (the names are bitsandbytes'). */
const describesWeight =
  /\.weight\.(absmax|quant_map|nested_absmax|nested_quant_map|quant_state\.bitsandbytes__\w+)$|\.(SCB|weight_format)$/;

/**
 * Parameters that a tensor of a state stands for, as PEFT counts them: two in each byte of a weight packed to 4 bits, none in
 * the scales and maps beside one, else its elements.
 */
export function parametersIn(path: string, { dtype, size }: { readonly dtype: string; readonly size: number }): number {
  if (describesWeight.test(`.${path}`)) return 0;
  return dtype === 'u8' && /(^|\.)weight$/.test(path) ? 2 * size : size;
}
