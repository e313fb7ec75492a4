/** The style sheet of the page. Colours come from theme.ts as variables. */

/** Everything but the colours. */
export const pageCss = `
*,*::before,*::after{box-sizing:border-box}
html{-webkit-text-size-adjust:100%;scroll-behavior:smooth}
body{margin:0;background:var(--page);color:var(--ink);font:400 17px/1.62 var(--serif);
  --serif:"Iowan Old Style","Palatino Linotype",Palatino,"Source Serif 4","Noto Serif",Georgia,serif;
  --sans:Inter,"Segoe UI",-apple-system,BlinkMacSystemFont,"Noto Sans","Helvetica Neue",Arial,"Liberation Sans",sans-serif;
  --mono:ui-monospace,"SF Mono",Menlo,Consolas,"DejaVu Sans Mono",monospace;overflow-wrap:break-word}
.page{max-width:56rem;margin:0 auto;padding:0 1.25rem 5rem}
a{color:var(--accent);text-underline-offset:.18em;text-decoration-thickness:.06em}
:focus-visible{outline:2px solid var(--accent);outline-offset:3px;border-radius:3px}
code{font:.84em var(--mono);background:var(--tint);padding:.1em .32em;border-radius:3px;overflow-wrap:anywhere}

.top{display:flex;justify-content:space-between;align-items:center;gap:1rem;padding:1.6rem 0 0;
  font:500 .78rem/1.3 var(--sans);color:var(--muted)}
.brand{letter-spacing:.02em;color:var(--ink);font-weight:650}
.brand i{display:inline-block;width:.62em;height:.62em;margin-right:.5em;border-radius:50%;background:var(--accent)}
.theme{font:inherit;color:var(--muted);background:none;border:1px solid var(--rule);border-radius:99px;padding:.32em .9em;cursor:pointer}
.theme:hover{color:var(--ink);border-color:var(--muted)}
header.title{padding:clamp(2.2rem,6vw,4.2rem) 0 2rem}
h1{font:600 clamp(1.95rem,1.35rem + 2.6vw,3.1rem)/1.13 var(--serif);letter-spacing:-.012em;margin:0;text-wrap:balance}
.subtitle{margin:.9rem 0 0;font-size:1.16rem;line-height:1.5;color:var(--soft);max-width:40em;text-wrap:pretty}
.generated{margin:1.1rem 0 0;font:400 .82rem/1.4 var(--sans);color:var(--muted)}

.answers{margin:0 0 1.5rem;padding:1.5rem 0 .6rem;border-top:2px solid var(--ink)}
.answers h2{font:650 .8rem/1.3 var(--sans);letter-spacing:.01em;color:var(--muted);margin:0 0 .4rem}
.answers ol{list-style:none;margin:0;padding:0}
.answers li{display:grid;grid-template-columns:1fr 9.5rem;gap:.2rem 1.8rem;align-items:baseline;padding:.82rem 0;border-bottom:1px solid var(--rule)}
.answers p{margin:0;font-size:1.1rem;line-height:1.5;text-wrap:pretty}
.verdict{font:500 .8rem/1.4 var(--sans);color:var(--muted);white-space:nowrap}
.verdict::before{content:"";display:inline-block;width:.62em;height:.62em;margin-right:.6em;border-radius:50%;border:1.5px solid var(--muted)}
.verdict.yes{color:var(--finding)}
.verdict.yes::before{background:var(--finding);border-color:var(--finding)}
.verdict.none::before{height:0;border-width:1.5px 0 0;border-radius:0;vertical-align:.24em}

nav.contents{margin:2rem 0 0;font:500 .88rem/1.4 var(--sans)}
nav.contents ol{list-style:none;margin:0;padding:0;display:flex;flex-wrap:wrap;gap:.45rem 1.5rem;counter-reset:s}
nav.contents a{color:var(--soft);text-decoration:none;display:block}
nav.contents a:hover,nav.contents a.here{color:var(--accent)}
@media (min-width:82rem){
  .page{margin-left:max(17rem,calc(50vw - 28rem));margin-right:auto}
  nav.contents{position:fixed;top:7rem;left:max(2rem,calc(50vw - 43rem));width:12.5rem;margin:0;max-height:calc(100vh - 9rem);overflow:auto}
  nav.contents ol{display:block}
  nav.contents a{padding:.36rem 0 .36rem .95rem;border-left:2px solid var(--rule)}
  nav.contents a.here{border-left-color:var(--accent)}
}

section{padding-top:3.6rem}
section>h2{font:600 clamp(1.5rem,1.25rem + 1vw,1.95rem)/1.2 var(--serif);letter-spacing:-.008em;margin:0;text-wrap:balance}
.lead{margin:.7rem 0 0;font-size:1.1rem;line-height:1.55;color:var(--soft);max-width:42em;text-wrap:pretty}
.prose{max-width:42em;margin:1.3rem 0 0}
.prose p{margin:.8em 0 0;text-wrap:pretty}
.prose p:first-child{margin-top:0}
.prose.caution,.prose.note,.prose.finding{padding:.85rem 1.1rem;border-radius:6px;font-size:.98rem;line-height:1.55;background:var(--tint);max-width:44em}
.prose.caution{background:var(--caution-tint)}
.prose.finding{background:var(--finding-tint)}
.tone{display:block;font:650 .78rem/1.4 var(--sans);color:var(--muted);margin-bottom:.15rem}
.caution .tone{color:var(--caution)}
.finding .tone{color:var(--finding)}

figure{margin:2.4rem 0 0;container-type:inline-size}
figure h3{font:650 1.02rem/1.35 var(--sans);letter-spacing:-.003em;margin:0;text-wrap:balance}
figcaption{font:400 .88rem/1.5 var(--sans);color:var(--muted);margin:.3rem 0 .9rem;max-width:50em;text-wrap:pretty}
details{margin:.7rem 0 0}
summary,.save{font:400 .84rem/1.4 var(--sans);color:var(--muted)}
summary{cursor:pointer;width:max-content;padding:.2rem 0}
summary:hover{color:var(--ink)}
.save{color:var(--accent);background:none;border:0;padding:.3rem 0;cursor:pointer;text-decoration:underline;text-underline-offset:.18em}
details .scroll{max-height:22rem;margin-top:.4rem}

.scroll{overflow-x:auto;position:relative;border-top:1.5px solid var(--ink);border-bottom:1px solid var(--rule);
  background:linear-gradient(to right,var(--page) 40%,transparent) 0 0/2.5rem 100% no-repeat local,
    linear-gradient(to left,var(--page) 40%,transparent) 100% 0/2.5rem 100% no-repeat local,
    radial-gradient(farthest-side at 0 50%,var(--edge),transparent) 0 0/.7rem 100% no-repeat scroll,
    radial-gradient(farthest-side at 100% 50%,var(--edge),transparent) 100% 0/.7rem 100% no-repeat scroll}
table{border-collapse:collapse;width:100%;font:400 .87rem/1.4 var(--sans);font-variant-numeric:tabular-nums lining-nums;color:var(--ink)}
th,td{text-align:left;padding:.5rem .9rem .5rem 0;vertical-align:baseline;border-bottom:1px solid var(--rule)}
th:last-child,td:last-child{padding-right:.2rem}
tbody tr:last-child>*{border-bottom:0}
thead th{font-weight:600;color:var(--muted);font-size:.8rem;line-height:1.3;vertical-align:bottom;position:sticky;top:0;background:var(--page)}
tbody th{font-weight:550;white-space:nowrap}
.sentences th,.sentences td{white-space:normal;min-width:11rem}
.num{text-align:right;white-space:nowrap}
tbody tr:hover>*{background:var(--tint)}
.unit{font-weight:400}
.rate b{font-weight:600}
.interval,.rate .n,.apart{color:var(--muted);font-size:.92em}
.rate .n{display:inline-block;min-width:3.4em;text-align:right}
.apart{display:block}
.spark{width:48px;height:10px;margin:0 .2rem 0 .55rem;vertical-align:0}
.spark-axis{stroke:var(--rule);stroke-width:1;fill:none}
.spark-range{stroke:var(--accent);stroke-width:2;fill:none;opacity:.55}
.spark circle{fill:var(--accent)}

.chart{position:relative;container-type:inline-size}
.chart>svg{display:block;width:100%;height:auto;overflow:visible;font-family:var(--sans);font-variant-numeric:tabular-nums}
.chart>svg.narrow{display:none;max-width:440px}
@container (max-width:599px){.chart>svg.wide{display:none}.chart>svg.narrow{display:block}}
.grid-of-charts{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,17.5rem),1fr));gap:1.6rem 2rem}
.multiple{min-width:0}
.multiple h4{font:600 .9rem/1.3 var(--sans);margin:0 0 .35rem}
.legend{display:flex;flex-wrap:wrap;gap:.15rem .35rem;margin:0 0 .55rem -.45rem;font:500 .84rem/1.2 var(--sans)}
.legend button{font:inherit;display:inline-flex;align-items:center;gap:.45rem;color:var(--ink);background:none;border:0;border-radius:5px;padding:.32rem .5rem;cursor:pointer}
.legend button:hover{background:var(--tint)}
.legend svg{width:26px;height:12px;flex:none}
.legend button[aria-pressed=false]{color:var(--muted);text-decoration:line-through}
.legend button[aria-pressed=false] svg{opacity:.3}

.chart text{fill:var(--muted)}
.chart .tick,.chart .region-label,.chart .reference-label{font-size:11.5px}
.chart .category{fill:var(--ink)}
.chart .axis-label{fill:var(--soft)}
.chart .value{fill:var(--soft);font-size:11px}
.grid{stroke:var(--grid);stroke-width:1}
.axis{stroke:var(--muted);stroke-width:1}
.region{fill:var(--tint)}
.reference,.reference-sample{stroke:var(--soft);stroke-width:1.2;stroke-dasharray:5 4}
.reference.of{stroke:var(--c)}
.dash-1{stroke-dasharray:1.5 3.5;stroke-width:1.5}
.dash-2{stroke-dasharray:9 3 2 3}
.reference.zero{stroke-dasharray:none;stroke:var(--muted)}
.chart .reference-label{fill:var(--soft)}
.line{fill:none;stroke:var(--c);stroke-width:1.9;stroke-linejoin:round;stroke-linecap:round}
.band{fill:var(--c);opacity:.13}
.point,.swatch{fill:var(--c);stroke:var(--page);stroke-width:.8}
.swatch,.point.dense{stroke:none}
.bar{fill:var(--c);opacity:.85}
.whisker{stroke:var(--c);stroke-width:1.5;fill:none}
.whisker.range{stroke-width:2.2;stroke-linecap:round}
.whisker.on-bar{stroke:var(--ink);stroke-width:1.15}
.hatch-ground{fill:var(--page)}
.hatch-line{stroke:var(--muted);stroke-width:1;opacity:.55}
.chart .cell-text{font-size:10.5px}
.chart .cell-text.weak{fill:var(--cell-weak)}
.chart .cell-text.strong{fill:var(--cell-strong)}
.qa{fill:color-mix(in oklab,var(--seq-1) var(--m),var(--seq-0))}
.qb{fill:color-mix(in oklab,var(--seq-2) var(--m),var(--seq-1))}
.dn{fill:color-mix(in oklab,var(--div-neg) var(--m),var(--div-0))}
.dp{fill:color-mix(in oklab,var(--div-pos) var(--m),var(--div-0))}
.hit rect,.strip{fill:transparent}
.cursor{stroke:var(--muted);stroke-width:1;opacity:0}
.hit:hover .cursor{opacity:.7}
.hit .cursor,.chart text{pointer-events:none}
.bar:hover{opacity:1}
.cell:hover{stroke:var(--ink);stroke-width:1.5}
.strip:hover{fill:var(--ink);opacity:.04}
.off{display:none}
.tip{position:fixed;z-index:9;left:0;top:0;max-width:min(22rem,calc(100vw - 1rem));pointer-events:none;background:var(--panel);color:var(--ink);
  border:1px solid var(--rule);border-radius:6px;box-shadow:var(--shadow);padding:.5rem .7rem;font:400 .8rem/1.45 var(--sans);font-variant-numeric:tabular-nums;visibility:hidden}
.tip b{display:block;font-weight:650}
.tip div{display:flex;gap:.5rem;align-items:baseline}
.tip i{flex:none;width:.6em;height:.6em;border-radius:50%;background:var(--c)}
.tip span{color:var(--muted)}

.pick{display:flex;flex-wrap:wrap;gap:.5rem 1.6rem;align-items:center;margin:.2rem 0 .4rem;font:500 .86rem/1.4 var(--sans);color:var(--soft)}
.pick label{display:flex;flex-wrap:wrap;gap:.5rem;align-items:center}
.pick select{font:inherit;color:var(--ink);background:var(--panel);border:1px solid var(--rule);border-radius:5px;padding:.25rem .4rem;max-width:100%}
.pick output{min-width:7.2em;color:var(--ink);font-weight:600}
.pick input{accent-color:var(--accent);width:9rem}
.picture{margin:1.4rem 0 0;padding-top:.9rem;border-top:1px solid var(--rule)}
.picture.unseen .panels,.picture.unseen .patch-legend{opacity:.25}
.picture h4{font:600 .92rem/1.35 var(--sans);margin:0 0 .5rem}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(7.5rem,1fr));gap:.7rem}
.panel{min-width:0;max-width:15rem}
.panel svg{display:block;width:100%;height:auto;image-rendering:pixelated;border-radius:3px}
.panel span{display:block;font:500 .8rem/1.4 var(--sans);color:var(--soft);margin-top:.25rem}
.no-picture{fill:var(--tint)}
.panel svg[data-panel] image:not(.patches){filter:grayscale(1)}
.patches{image-rendering:pixelated}
.veil{fill:#fff;opacity:.6}
.panel .sink{fill:none;stroke:#111;stroke-width:1.5;stroke-dasharray:3 2;vector-effect:non-scaling-stroke}
.patch-legend{display:flex;flex-wrap:wrap;gap:.3rem 1.2rem;align-items:center;margin:.55rem 0 0;font:400 .8rem/1.4 var(--sans);color:var(--muted)}
.scale{display:inline-flex;gap:.4rem;align-items:center}
.scale b{font-weight:500;font-variant-numeric:tabular-nums}
.scale i{display:inline-block;width:4.5rem;height:.6rem;border-radius:2px;background:linear-gradient(to right,#fff,#0b5f96)}
.scale i.both{background:linear-gradient(to right,#b5430b,#fff,#0b5f96)}
.patch-unit i{display:inline-block;width:.75em;height:.75em;border:1.5px dashed currentColor;vertical-align:-.08em}
.said{display:grid;grid-template-columns:max-content 1fr max-content;gap:.2rem .9rem;margin:.6rem 0 0;font:400 .84rem/1.45 var(--sans)}
.said dt{font-weight:600;grid-column:1}
.said dd{margin:0;min-width:0;overflow-wrap:anywhere;grid-column:2}
.said .grade{grid-column:3;color:var(--muted)}
.said .grade.right{color:var(--finding);font-weight:600}

.provenance dl{display:grid;grid-template-columns:max-content 1fr;gap:.3rem 1.6rem;margin:1.1rem 0 0;font:400 .84rem/1.5 var(--sans)}
.provenance dt{color:var(--muted)}
.provenance dd{margin:0;overflow-wrap:anywhere;min-width:0;font-variant-numeric:tabular-nums}

@media (max-width:40rem){
  body{font-size:16px}
  .answers li{grid-template-columns:1fr}
  .provenance dl{grid-template-columns:1fr;gap:0}
  .provenance dd{margin-bottom:.6rem}
  th,td{padding-right:.8rem}
}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
@media print{
  @page{margin:18mm 16mm}
  body{font-size:10.5pt;background:none}
  .page{max-width:none;padding:0;margin:0}
  .theme,nav.contents,details,.save,.tip{display:none}
  thead th{background:none}
  nav.contents{position:static}
  section{padding-top:1.8rem}
  figure,.answers li,.prose,tr{break-inside:avoid}
  h2,h3,figcaption{break-after:avoid}
  .scroll{overflow:visible;background:none}
  table{font-size:8.5pt}
  .spark{display:none}
  th,td{padding-right:.6rem}
  *{-webkit-print-color-adjust:exact;print-color-adjust:exact}
}
`;
